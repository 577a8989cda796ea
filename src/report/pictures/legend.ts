import { escapeHtml } from "../escape-html.js";
import { percent } from "../number-words.js";
import { RAMP_STEPS } from "./ramp.js";

/** The ramp with its two ends, as HTML. */
export function legend(low: number, high: number, what: string): string {
  const steps = Array.from({ length: RAMP_STEPS }, (_, i) => `<i style="background:var(--h${i})"></i>`).join("");
  return (
    `<p class="legend"><span>${percent(low, 1)}</span><span class="ramp" ` +
    `aria-hidden="true">${steps}</span><span>${percent(high, 1)}</span><span>${escapeHtml(what)}</span></p>`
  );
}
