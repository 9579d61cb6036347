// What the page does in the browser itself: theme, address, and buttons inside HTML.
() => {
  const root = document.documentElement;

  const applyTheme = (dark) => {
    document.body.classList.toggle("dark", dark);
    root.style.colorScheme = dark ? "dark" : "light";
  };
  const stored = localStorage.getItem("prefix-studio-theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  applyTheme(stored ? stored === "dark" : prefersDark);

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-page-action]");
    if (!button) return;
    if (button.dataset.pageAction === "theme") {
      const dark = !document.body.classList.contains("dark");
      localStorage.setItem("prefix-studio-theme", dark ? "dark" : "light");
      applyTheme(dark);
    }
    if (button.dataset.pageAction === "insert") {
      // A column chip writes its placeholder where the cursor stands in the prompt.
      const field = document.querySelector("#train-template textarea");
      if (!field) return;
      const at = field.selectionStart ?? field.value.length;
      const end = field.selectionEnd ?? at;
      const value = field.value.slice(0, at) + button.dataset.text + field.value.slice(end);
      Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(field, value);
      field.dispatchEvent(new Event("input", { bubbles: true }));
      field.focus();
      field.setSelectionRange(at + button.dataset.text.length, at + button.dataset.text.length);
    }
    if (button.dataset.pageAction === "press") document.getElementById(button.dataset.press)?.click();
    if (button.dataset.pageAction === "copy") {
      const source = document.getElementById(button.dataset.source);
      if (source) navigator.clipboard.writeText(source.textContent);
    }
  });

  // The marked tokens of an answer are one stop of the Tab key; arrow keys move within it, Enter chooses.
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  document.addEventListener("keydown", (event) => {
    const token = event.target.closest?.(".ps-pane .ps-token");
    if (!token) return;
    const all = [...token.closest(".ps-pane").querySelectorAll(".ps-token")];
    const next = { Home: all[0], End: all.at(-1) }[event.key] ?? all[all.indexOf(token) + (STEPS[event.key] ?? 0)];
    if (event.key === "Enter" || event.key === " ") token.click();
    else if (!next || next === token) return;
    event.preventDefault();
    if (!next) return;
    token.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  // The address carries the place: the open tab, in Jobs the chosen job, in the Playground a saved comparison.
  // Until the place that it names has been opened, it is left as it came.
  const wanted = new URL(window.location.href).searchParams.get("tab");
  let opened = !new URL(window.location.href).searchParams.has("comparison");
  let settled = !["jobs", "playground", "prefixes"].includes(wanted);
  document.addEventListener("click", () => { settled = true; }, { capture: true, once: true });
  const remember = () => {
    const tab = document.querySelector("#tabs > .tab-wrapper [data-tab-id][aria-selected=true]")?.dataset.tabId;
    settled = settled || tab === wanted;
    if (!tab || !settled) return;
    const job = tab === "jobs" && document.querySelector("#job-cards [aria-pressed=true]")?.dataset.target;
    const address = new URL(window.location.href);
    address.searchParams.set("tab", tab);
    if (job) address.searchParams.set("job", job);
    else if (tab !== "jobs") address.searchParams.delete("job");
    const runs = tab === "jobs" && document.querySelector("#runs-curves [data-runs]")?.dataset.runs;
    if (runs) address.searchParams.set("compare", runs);
    else if (job || tab !== "jobs") address.searchParams.delete("compare");
    const comparison = document.querySelector("#play-kept [data-comparison]")?.dataset.comparison;
    if (tab === "playground" && comparison) address.searchParams.set("comparison", comparison);
    else if (tab !== "playground" || opened) address.searchParams.delete("comparison");
    opened = opened || Boolean(comparison);
    if (address.href !== window.location.href) window.history.replaceState(null, "", address);
  };
  const watched = { subtree: true, childList: true, attributeFilter: ["aria-selected", "aria-pressed", "data-comparison"] };
  new MutationObserver(remember).observe(document.body, watched);
}
