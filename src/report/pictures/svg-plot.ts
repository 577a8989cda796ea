import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { printable } from "../../errors.js";
import { escapeHtml } from "../escape-html.js";

const { document } = parseHTML("<!doctype html><html><body></body></html>") as unknown as { document: Document };

export interface SvgWords {
  /** What the picture shows, for those who do not see it. */
  readonly alt: string;
  /** Below this width the picture scrolls instead of shrinking; its text would become unreadable. */
  readonly minWidth?: number;
}

/**
 * Draw with Observable Plot on the server and return the SVG as text.
 * Colours are custom properties of the page, so that one picture serves light, dark and print. Text from outside is
 * escaped by the serialiser.
 */
export function svgPlot(options: Plot.PlotOptions, { alt, minWidth }: SvgWords): string {
  const svg = Plot.plot({
    document,
    ...options,
    style: { background: "none", fontFamily: "inherit", fontSize: "12px", overflow: "visible" },
  }) as unknown as Element;
  svg.querySelector("style")?.remove();
  // Plot names its groups ("rule", "x-axis tick label"), which a group without a role may not be; the picture as a
  // whole has its text.
  for (const group of svg.querySelectorAll("[aria-label]")) {
    if (group.getAttribute("aria-label")?.endsWith("label")) group.setAttribute("class", "axis");
    group.removeAttribute("aria-label");
  }
  svg.setAttribute("class", "plot");
  const width = svg.getAttribute("width") ?? "640";
  svg.removeAttribute("style");
  svg.removeAttribute("height");
  svg.setAttribute("font-size", "12");
  svg.setAttribute("font-family", "inherit");
  svg.setAttribute("style", `max-width:${width}px${minWidth === undefined ? "" : `;min-width:${minWidth}px`}`);
  // The serialiser leaves "<" as it is in attributes, which is sound HTML; ours are escaped like everything foreign.
  // Tooltips and labels hold names: `printable` at this one place keeps control characters out of all of them.
  return printable(svg.outerHTML, true).replace("<svg", `<svg role="img" aria-label="${escapeHtml(printable(alt))}"`);
}

/**
 * The same as a file of its own: valid XML, with colours that follow the reader's, and a background, because what shows
 * the file may put any behind it.
 */
export function standalone(svg: string): string {
  const root = svgDocument(svg);
  root.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  root.setAttribute("fill", "currentColor");
  root.setAttribute("font-family", "system-ui, sans-serif");
  root.removeAttribute("style");
  root.removeAttribute("class");
  const style =
    "svg{--ours:#9a6a00;--others:#52606b;--rule:#d8dcdf;color:#22282c;background:#fff}" +
    "@media (prefers-color-scheme:dark){" +
    "svg{--ours:#e5b54a;--others:#a9b4bc;--rule:#3c454b;color:#e8eaec;background:#171b1e}}";
  // The serialiser of HTML leaves "<" and bare ampersands in attributes, which XML refuses.
  return `${xmlOf(root).replace(/^(<svg[^>]*>)/, `$1<style>${style}</style>`)}\n`;
}

function svgDocument(svg: string): Element {
  const holder = document.createElement("div");
  holder.innerHTML = svg;
  return holder.firstElementChild!;
}

function xmlOf(element: Element): string {
  const attributes = [...element.attributes]
    .filter(({ name }, at, all) => all.findIndex((other) => other.name === name) === at)
    .map(({ name, value }) => ` ${name}="${escapeHtml(value)}"`)
    .join("");
  const inside = [...element.childNodes].map((node) =>
    node.nodeType === ELEMENT ? xmlOf(node as Element) : escapeHtml(node.textContent ?? ""),
  );
  return `<${element.localName}${attributes}>${inside.join("")}</${element.localName}>`;
}

const ELEMENT = 1;

/** A part of Plot's mark options that every axis of ours shares: no tick lines, quiet text. */
export const QUIET_AXIS = { tickSize: 0, tickPadding: 6, stroke: "var(--rule)" } as const;

/** Ticks of a sparsity axis as `22 %`, with a decimal where they lie closer than a percent. */
export function percentTicks(min: number, max: number): (value: number) => string {
  const digits = max - min < 0.025 ? 1 : 0;
  return (value) => `${(value * 100).toFixed(digits)} %`;
}
