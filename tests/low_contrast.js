// Texts that stand out from what is behind them by less than WCAG 2.1 AA asks for: 4.5 to 1, large ones 3 to 1.
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  // Whatever notation a colour is in, the canvas knows its red, green, blue and alpha.
  const read = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, at) => a * value + (1 - a) * below[at]);
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = colour.map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const behind = (element) => {
    const above = [];
    for (let at = element; at; at = at.parentElement) above.unshift(getComputedStyle(at));
    const colour = above.reduce((below, style) => over(read(style.backgroundColor), below), [255, 255, 255]);
    return [colour, above.reduce((product, style) => product * Number(style.opacity), 1)];
  };
  const exempt = "[disabled], [aria-disabled=true], [aria-hidden=true], script, style, noscript";
  const found = new Map();
  const look = (element, text, style, colour) => {
    const box = element.getBoundingClientRect();
    if (!text.trim() || element.closest(exempt) || box.width < 2 || style.visibility === "hidden") return;
    const [below, opacity] = behind(element);
    if (opacity < 0.05) return;
    const [r, g, b, a] = read(colour);
    const measured = ratio(over([r, g, b, a * opacity], below), below);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (measured >= (isLarge ? 3 : 4.5) - 0.005) return;
    const name = `${element.tagName.toLowerCase()} ${element.getAttribute("class") ?? ""}`.trim();
    found.set(name, `${measured.toFixed(2)} in <${name}>: ${text.trim().slice(0, 40)}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const style = getComputedStyle(node.parentElement);
    look(node.parentElement, node.textContent, style, node.parentElement.closest("svg") ? style.fill : style.color);
  }
  for (const field of document.querySelectorAll("input:not([type=range], [type=checkbox], [type=radio]), textarea")) {
    const style = getComputedStyle(field, field.value ? null : "::placeholder");
    look(field, field.value || field.placeholder || "", getComputedStyle(field), style.color);
  }
  return [...found.values()];
}
