// @ts-check
// Elements and plots. Text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} name
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/**
 * Have these children, and leave alone what is there and so already: what somebody reads, has marked, or points at
 * stays. The children that are given are used up; listeners of theirs are not taken over.
 * @param {Element} parent
 * @param {...(Node | string)} children
 */
export function show(parent, ...children) {
  const there = [...parent.childNodes];
  const wanted = children.map((child) => (typeof child === "string" ? document.createTextNode(child) : child));
  for (const gone of there.slice(wanted.length)) gone.remove();
  for (const [place, child] of wanted.entries()) {
    const old = there[place];
    if (!old) parent.append(child);
    else if (old.nodeName !== child.nodeName) old.replaceWith(child);
    else if (old instanceof Element && child instanceof Element) {
      for (const { name } of [...old.attributes]) if (!child.hasAttribute(name)) old.removeAttribute(name);
      for (const { name, value } of child.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
      show(old, ...child.childNodes);
    } else if (old.nodeValue !== child.nodeValue) old.nodeValue = child.nodeValue;
  }
}

/** @param {string} name @param {Record<string, string | number>} attributes @param {string} [text] */
function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * A line with an area beneath: the last minute from left to right.
 * @param {{at_ms: number, rate: number}[]} series
 * @param {number} keep_ms
 * @param {string} label for those who do not see it
 */
export function line(series, keep_ms, label) {
  const [width, height] = [260, 44];
  const made = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  made.append(shape("line", { class: "plot-base", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }));
  const [oldest, newest] = [series[0], series.at(-1)];
  if (!oldest || !newest) return made;
  const top = Math.max(1, ...series.map((one) => one.rate));
  const x = (/** @type {number} */ at_ms) => (width * (1 - (newest.at_ms - at_ms) / keep_ms)).toFixed(1);
  const points = series.map(({ at_ms, rate }) => `${x(at_ms)},${(height - 1 - (rate / top) * (height - 14)).toFixed(1)}`);
  made.append(
    shape("polygon", { class: "plot-area", points: `${x(oldest.at_ms)},${height} ${points.join(" ")} ${width},${height}` }),
    shape("polyline", { class: "plot-line", points: points.join(" ") }),
    shape("text", { class: "plot-text", x: 0, y: 8 }, `up to ${Math.round(top)}/s`),
  );
  return made;
}

/**
 * Bars, one for each class.
 * @param {number[]} counts
 * @param {number[]} bounds_ms
 * @param {string} label
 */
export function histogram(counts, bounds_ms, label) {
  const [width, height, foot] = [260, 74, 12];
  const made = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const step = width / counts.length;
  const top = Math.max(1, ...counts);
  for (const [place, count] of counts.entries()) {
    const tall = count ? Math.max(1.5, (count / top) * (height - foot - 4)) : 0;
    const bar = shape("rect", { class: "plot-bar", x: place * step + 1, width: step - 2, y: height - foot - tall, height: tall, rx: 1.5 });
    const [low, high] = [bounds_ms[place - 1] ?? 0, bounds_ms[place]];
    const within = high === undefined ? `above ${short(low)}` : `${short(low)} to ${short(high)}`;
    bar.append(shape("title", {}, `${within}: ${count.toLocaleString("en")}`));
    made.append(bar);
    if (place % 2 === 0 && high !== undefined) {
      const x = (place + 1) * step;
      made.append(shape("text", { class: "plot-text", x, y: height - 2, "text-anchor": "middle" }, short(high)));
    }
  }
  made.append(shape("line", { class: "plot-base", x1: 0, x2: width, y1: height - foot, y2: height - foot }));
  return made;
}

/** @param {number} ms */
function short(ms) {
  return ms < 1_000 ? `${ms}ms` : `${ms / 1_000}s`;
}
