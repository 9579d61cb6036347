// Gradio's events in the order in which they were made, whatever the machine is busy with.
//
// Its client sends two events side by side, shows an answer that comes before the receipt of its event ahead of
// answers that came earlier, and does not listen for an event that it sends while the stream of answers is closing.
// Here every event waits for the receipt of the one before, no answer overtakes its receipt, and the stream goes on
// while an answer is owed.
() => {
  const send = window.fetch.bind(window);
  const CLOSING_MS = 2000;
  const known = new Set();
  const owed = new Set();
  let turn = Promise.resolve();
  let closing = Promise.resolve();
  let numSending = 0;
  let woken = [];

  const within = (promise, ms) => Promise.race([promise, new Promise((resolve) => setTimeout(resolve, ms))]);
  const settle = (id, next) => {
    if (id) known.add(id);
    numSending -= 1;
    woken.splice(0).forEach((wake) => wake());
    next();
  };
  const idOf = (text) => { try { return JSON.parse(text).event_id; } catch { return undefined; } };

  const join = async (asked) => {
    const before = turn;
    let next;
    turn = new Promise((resolve) => { next = resolve; });
    // What a page does as it opens is in nobody's order, and side by side it opens sooner.
    if (navigator.userActivation?.hasBeenActive ?? true) await before;
    numSending += 1;
    try {
      const answer = await send(...asked);
      const text = await answer.text();
      // A client that has yet to hear that the stream closes would wait on it for this event.
      await closing;
      const id = idOf(text);
      if (id) owed.add(id);
      const receipt = new Response(text, { status: answer.status, headers: answer.headers });
      receipt.json = async () => {
        // What the client does with it is done before any timer.
        setTimeout(settle, 0, id, next);
        return JSON.parse(text);
      };
      return receipt;
    } catch (fault) {
      settle(undefined, next);
      throw fault;
    }
  };

  // Hands one message on; tells whether the stream has to be opened again.
  const pass = async (block, out, signal) => {
    const message = JSON.parse(block.slice("data:".length));
    const id = message.event_id;
    while (id && numSending && !known.has(id)) await new Promise((resolve) => woken.push(resolve));
    if (message.msg === "close_stream") {
      if (owed.size) return true;
      closing = within(new Promise((resolve) => signal.addEventListener("abort", resolve)), CLOSING_MS);
    }
    if (message.msg === "process_completed") [known, owed].forEach((each) => each.delete(id));
    out.enqueue(new TextEncoder().encode(`${block}\n\n`));
    return false;
  };

  // Hands a stream on until it ends; tells whether answers are still owed.
  const follow = async (answer, out, signal) => {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let isOwed = false;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return isOwed;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) isOwed = await pass(block, out, signal);
    }
  };

  const listen = async (asked) => {
    const request = new Request(...asked);
    const first = await send(request.clone());
    if (!first.ok || !first.body) return first;
    const feed = async (out) => {
      try {
        for (let answer = first; await follow(answer, out, request.signal); ) {
          answer = await send(request.clone());
          if (!answer.ok) throw new Error(`The stream of answers cannot be opened: ${answer.status}.`);
        }
        out.close();
      } catch (fault) {
        out.error(fault);
      }
    };
    // What `start` returns would be waited for before anything can be read.
    return new Response(new ReadableStream({ start: (out) => { feed(out); } }), { headers: first.headers });
  };

  window.fetch = (...asked) => {
    const { pathname } = new URL(asked[0]?.url ?? asked[0], document.baseURI);
    if (pathname.endsWith("/queue/join")) return join(asked);
    return pathname.endsWith("/queue/data") ? listen(asked) : send(...asked);
  };
}
