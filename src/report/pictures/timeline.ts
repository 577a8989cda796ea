import * as Plot from "@observablehq/plot";
import type { ShardRow } from "../../record/surgery-report.js";
import { count, counted, duration } from "../number-words.js";
import { svgPlot } from "./svg-plot.js";

/** Kills against time, a band for each shard. */
export function timeline(shards: readonly ShardRow[]): string {
  const inOrder = [...shards].sort((a, b) => a.order - b.order);
  let clock = 0;
  let before = 0;
  const spans = inOrder.map((shard) => {
    const from = clock;
    clock += Math.max(0, Number.isFinite(shard.seconds) ? shard.seconds : 0);
    const killed = shard.killed_cumulative - before;
    const span = { shard, from, to: clock, middle: (from + clock) / 2, before, after: shard.killed_cumulative, killed };
    before = shard.killed_cumulative;
    return span;
  });
  if (spans.length === 0 || clock === 0) return "";
  const [unit, size] = clock >= 7200 ? ["hours", 3600] : clock >= 300 ? ["minutes", 60] : ["seconds", 1];
  const points = [{ at: 0, killed: 0 }, ...spans.map(({ to, after }) => ({ at: to / size, killed: after }))];
  const most = Math.max(1, before);
  const [scale, word] = most >= 1e9 ? [1e9, "billion"] : most >= 1e6 ? [1e6, "million"] : [1, ""];
  const labelled = spans.filter(({ from, to }) => (to - from) / clock > 0.06);
  return svgPlot(
    {
      width: 860,
      height: 276,
      marginLeft: 56,
      marginRight: 20,
      marginTop: 46,
      marginBottom: 40,
      x: {
        domain: [0, clock / size],
        ticks: 8,
        tickSize: 0,
        label: `${unit} at work`,
        labelAnchor: "center",
        labelArrow: "none",
      },
      y: {
        domain: [0, most / scale],
        ticks: 4,
        tickSize: 0,
        label: word === "" ? "weights killed" : `${word} weights killed`,
        labelArrow: "none",
      },
      marks: [
        Plot.rectX(
          spans.filter((_, i) => i % 2 === 0),
          {
            x1: (d: (typeof spans)[number]) => d.from / size,
            x2: (d: (typeof spans)[number]) => d.to / size,
            y1: 0,
            y2: most / scale,
            fill: "var(--band)",
          },
        ),
        Plot.gridY({ stroke: "var(--rule)", strokeOpacity: 1, ticks: 4 }),
        Plot.areaY(points, {
          x: "at",
          y: (d: (typeof points)[number]) => d.killed / scale,
          fill: "var(--yellow)",
          fillOpacity: 0.22,
        }),
        Plot.lineY(points, {
          x: "at",
          y: (d: (typeof points)[number]) => d.killed / scale,
          stroke: "var(--killed)",
          strokeWidth: 1.75,
        }),
        Plot.ruleY([0], { stroke: "var(--soft)" }),
        ...(spans.length <= 60
          ? [
              Plot.dot(spans, {
                x: (d: (typeof spans)[number]) => d.to / size,
                y: (d: (typeof spans)[number]) => d.after / scale,
                r: 3.5,
                fill: "var(--killed)",
                stroke: "var(--paper)",
                title: (d: (typeof spans)[number]) =>
                  `${d.shard.file}: ${duration(d.shard.seconds)}, ${count(d.killed)} killed in it, ` +
                  `${count(d.after)} so far`,
              }),
            ]
          : []),
        Plot.text(labelled, {
          x: (d: (typeof spans)[number]) => d.middle / size,
          frameAnchor: "top",
          dy: -16,
          text: (d: (typeof spans)[number]) => shardLabel(d.shard, spans.length),
          fill: "var(--soft)",
        }),
      ],
    },
    {
      alt:
        `Weights killed over time: ${counted(spans.length, "shard")} in ${duration(clock)}, ${count(before)} weights ` +
        "killed at the end.",
      minWidth: 720,
    },
  );
}

function shardLabel({ file, order }: ShardRow, shardCount: number): string {
  const number = /-(\d{1,6})-of-\d+/.exec(file)?.[1];
  if (shardCount === 1) return "one file";
  return shardCount > 10 ? `${Number(number ?? order)}` : `shard ${Number(number ?? order)}`;
}
