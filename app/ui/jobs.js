// What the page does for jobs in the browser itself: the title, notices of what has ended, and answers over time.
() => {
  const SEEN = "prefix-studio-seen-until", TELL = "prefix-studio-tell", NAME = "Prefix Studio";
  const BUSY_MS = 3000, IDLE_MS = 15000;
  const WORDS = { succeeded: "is done", failed: "failed", cancelled: "was discarded" };
  const canTell = "Notification" in window && window.isSecureContext;
  let asked = localStorage.getItem(SEEN);
  let unread = [];
  let shown = "";

  // Texts of users go in as text, never as markup.
  const make = (tag, text, more = {}) => Object.assign(document.createElement(tag), { textContent: text }, more);
  // A job that is looked at, or was until a moment ago, is no news.
  const lookedAt = {};
  const noteLook = () => {
    if (document.hidden || !document.querySelector("#tabs > .tab-wrapper [data-tab-id=jobs][aria-selected=true]")) return;
    const id = document.querySelector("#job-cards [aria-pressed=true]")?.dataset.target;
    if (id) lookedAt[id] = Date.now();
  };
  const isOpen = (id) => { noteLook(); return !document.hidden && Date.now() - (lookedAt[id] ?? 0) < 2 * BUSY_MS; };

  const open = (id) => {
    document.querySelector("#tabs > .tab-wrapper [data-tab-id=jobs]")?.click();
    let looks = 0;
    const press = () => {
      const card = document.querySelector(`#job-cards button[data-target="${CSS.escape(id)}"]`);
      if (card) card.click();
      else if (looks++ < 20) setTimeout(press, 150);
    };
    press();
  };

  // Inside the container, whose names of colours it uses.
  const box = () => {
    let found = document.getElementById("ps-news");
    if (!found) {
      found = make("aside", "", { id: "ps-news", className: "ps-news", hidden: true });
      found.setAttribute("role", "status");
      found.setAttribute("aria-label", "Jobs that have ended");
      (document.querySelector(".gradio-container") ?? document.body).append(found);
    }
    return found;
  };
  const forget = () => { unread = []; draw(); localStorage.setItem(SEEN, asked); };
  const draw = () => {
    const news = box();
    news.hidden = unread.length === 0;
    news.replaceChildren(make("strong", unread.length === 1 ? "A job has ended" : `${unread.length} jobs have ended`));
    const list = make("ul", "");
    for (const job of unread) {
      const item = make("li", "");
      const button = make("button", `${job.name} ${WORDS[job.status] ?? "has ended"}`, { type: "button" });
      button.addEventListener("click", () => { open(job.id); forget(); });
      item.append(button);
      list.append(item);
    }
    const close = make("button", "Close", { type: "button", className: "ps-action" });
    close.addEventListener("click", forget);
    news.append(list, close);
  };

  const tell = (job) => {
    if (!canTell || localStorage.getItem(TELL) !== "on" || Notification.permission !== "granted") return;
    if (!document.hidden && document.hasFocus()) return;
    const note = new Notification(`${job.name} ${WORDS[job.status] ?? "has ended"}`, {
      body: job.message ?? "Its result is in the Jobs tab.", tag: job.id,
    });
    note.onclick = () => { window.focus(); open(job.id); note.close(); };
  };

  const title = (told) => {
    const [job, ...others] = told.running;
    const more = others.length ? ` (+${others.length})` : "";
    if (job) return `${Math.floor(100 * job.share)} % · ${job.name}${more}`;
    const last = unread[unread.length - 1];
    return last && document.hidden ? `${last.name} ${WORDS[last.status] ?? "has ended"}` : NAME;
  };

  const look = async () => {
    let wait = IDLE_MS;
    try {
      const address = asked ? `/api/v1/jobs/activity?since=${encodeURIComponent(asked)}` : "/api/v1/jobs/activity";
      const answer = await fetch(address, { cache: "no-store" });
      if (answer.ok) {
        const told = await answer.json();
        asked = told.now;
        const known = new Set(unread.map((job) => job.id));
        const fresh = told.ended.filter((job) => !known.has(job.id));
        fresh.forEach(tell);
        const missed = fresh.filter((job) => !isOpen(job.id));
        if (missed.length) { unread.push(...missed); draw(); }
        if (!unread.length) localStorage.setItem(SEEN, asked);
        const wanted = title(told);
        if (wanted !== shown || document.title !== wanted) document.title = shown = wanted;
        if (told.running.length || told.num_queued) wait = BUSY_MS;
      }
    } catch {
      // The studio is being restarted; the next look tells.
    }
    setTimeout(look, wait);
  };
  look();

  // The switch: the browser is asked only when it is turned on.
  const hint = (text) => { const line = document.getElementById("ps-tell-hint"); if (line) line.textContent = text; };
  const settle = () => {
    const field = document.querySelector("[data-page-action=tell]");
    if (!field || field.dataset.settled) return;
    field.dataset.settled = "yes";
    field.disabled = !canTell;
    field.checked = canTell && localStorage.getItem(TELL) === "on" && Notification.permission === "granted";
    if (!canTell) hint("This browser notifies only over https or from an address on this machine.");
  };
  document.addEventListener("change", async (event) => {
    const field = event.target.closest("[data-page-action=tell]");
    if (!field) return;
    if (!field.checked) { localStorage.setItem(TELL, "off"); return hint(""); }
    const consent = await Notification.requestPermission();
    field.checked = consent === "granted";
    localStorage.setItem(TELL, field.checked ? "on" : "off");
    hint(field.checked ? "" : "The browser does not allow it for this address; its settings of this page can change that.");
  });

  // The slider over the evaluations: the place that was chosen survives a new evaluation; at the end it follows.
  const chosen = {};
  const scrub = (slider) => {
    const frames = slider.closest("[data-frames]")?.querySelectorAll("[data-frame]") ?? [];
    frames.forEach((frame, index) => { frame.hidden = index !== Number(slider.value); });
    const frame = frames[Number(slider.value)];
    const words = slider.closest(".ps-scrub").querySelector("output");
    if (frame && words && words.textContent !== frame.dataset.frame) words.textContent = frame.dataset.frame;
    if (frame) slider.setAttribute("aria-valuetext", frame.dataset.frame);
  };
  document.addEventListener("input", (event) => {
    const slider = event.target.closest("[data-page-action=scrub]");
    if (!slider) return;
    chosen[slider.dataset.of] = slider.value === slider.max ? null : slider.value;
    scrub(slider);
  });
  const restore = () => {
    settle();
    noteLook();
    for (const slider of document.querySelectorAll("[data-page-action=scrub]:not([data-settled])")) {
      slider.dataset.settled = "yes";
      slider.value = chosen[slider.dataset.of] ?? slider.max;
      scrub(slider);
    }
  };
  new MutationObserver(restore).observe(document.body, { subtree: true, childList: true });
  restore();
}
