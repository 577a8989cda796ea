import * as Plot from "@observablehq/plot";
import type { WorthNumbers } from "../../record/report-input.js";
import { byteSize, fixed } from "../number-words.js";
import { formatName, memoriesInSight } from "../worth-section.js";
import { svgPlot } from "./svg-plot.js";

/** Size in each format as bars, memories as lines. */
export function formatSizes(worth: WorthNumbers): string {
  const formats = worth.formats
    .filter(({ size }) => size > 0)
    .map((format) => ({ ...format, label: formatName(format.format) }));
  if (formats.length === 0) return "";
  const inWords = ({ label, size, bits_per_weight }: (typeof formats)[number]) =>
    `${label} ${byteSize(size)}, ${fixed(bits_per_weight, 2)} bits a weight`;
  const largest = formats.reduce((most, { size }) => Math.max(most, size), 0);
  const memories = memoriesInSight(worth);
  const right = memories.reduce((most, { room }) => Math.max(most, room), largest) * 1.12;
  const scale = right >= 2e9 ? 1e9 : 1e6;
  return svgPlot(
    {
      width: 860,
      height: 34 * formats.length + 66,
      marginLeft: 124,
      marginRight: 16,
      marginTop: 26,
      marginBottom: 38,
      x: {
        domain: [0, right / scale],
        ticks: 6,
        tickSize: 0,
        label: scale === 1e9 ? "GB of 10⁹ bytes" : "MB of 10⁶ bytes",
        labelAnchor: "center",
        labelArrow: "none",
      },
      y: { type: "band", domain: formats.map(({ label }) => label), tickSize: 0, label: null, padding: 0.3 },
      marks: [
        Plot.gridX({ stroke: "var(--rule)", strokeOpacity: 1, ticks: 6 }),
        Plot.barX(formats, {
          x: (d: (typeof formats)[number]) => d.size / scale,
          y: "label",
          fill: {
            value: (d: (typeof formats)[number]) => (d.format === "packed" ? "var(--killed)" : "var(--alive)"),
            scale: null,
          },
          fillOpacity: { value: (d: (typeof formats)[number]) => (d.lossy ? 0.55 : 1), scale: null },
          rx: 2,
        }),
        Plot.ruleX(memories, {
          x: (d: (typeof memories)[number]) => d.room / scale,
          stroke: "var(--ink)",
          strokeDasharray: "3 3",
        }),
        Plot.text(memories, {
          x: (d: (typeof memories)[number]) => d.room / scale,
          frameAnchor: "top",
          dy: -16,
          text: (d: (typeof memories)[number]) => `${d.gigabytes} GB`,
          fill: "var(--ink)",
        }),
        Plot.text(formats, {
          x: (d: (typeof formats)[number]) => d.size / scale,
          y: "label",
          text: (d: (typeof formats)[number]) => byteSize(d.size),
          dx: 6,
          textAnchor: "start",
          fill: "var(--ink)",
          stroke: "var(--paper)",
          strokeWidth: 3,
        }),
      ],
    },
    {
      alt: `Bars of size by format: ${formats.map(inWords).join("; ")}.`,
      minWidth: 720,
    },
  );
}
