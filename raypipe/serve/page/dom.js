// Elements made in code. Text from data only ever becomes text: nothing here, or elsewhere, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`on: {click: f}`) and children; strings become text nodes. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** As `el`, of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const byId = (id) => document.getElementById(id);

/** A number as people read it: 12,345. */
export const count = (value) => Number(value).toLocaleString("en");

/** "1 hit", "2 hits". */
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** Copy text, and say so on the button for a moment. */
export async function copy(text, button) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // No clipboard without https, but for localhost: the older way, through a selection.
    const field = el("textarea", { class: "visually-hidden" });
    field.value = text;
    document.body.append(field);
    field.select();
    button.textContent = document.execCommand("copy") ? "Copied" : "Copying is not allowed here";
    field.remove();
    button.focus();
  }
  setTimeout(() => (button.textContent = said), 1600);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
