import * as Plot from "@observablehq/plot";
import type { PartsNumbers } from "../../record/parts.js";
import { workByHost } from "../hosts-section.js";
import { counted, duration } from "../number-words.js";
import { svgPlot } from "./svg-plot.js";

/** More machines than lines can be told apart in. */
const MOST_HOSTS = 64;

interface Bar {
  readonly part: PartsNumbers["parts"][number];
  /** Its machine's, from the top, and its place among the parts at work there. */
  readonly row: number;
  readonly lane: number;
  readonly lanes: number;
}

/** Each machine's parts against time, side by side where it did several at once. */
export function hostsTimeline(numbers: PartsNumbers): string {
  const hosts = workByHost(numbers);
  const times = numbers.parts.flatMap(({ started_at, ended_at }) => [Date.parse(started_at), Date.parse(ended_at)]);
  const first = times.reduce((least, time) => Math.min(least, time), Infinity);
  const last = times.reduce((most, time) => Math.max(most, time), first);
  const seconds = (last - first) / 1000;
  if (hosts.length === 0 || hosts.length > MOST_HOSTS || !(seconds > 0)) return "";
  const [unit, size] = seconds >= 7200 ? ["hours", 3600] : seconds >= 300 ? ["minutes", 60] : ["seconds", 1];
  const bars: Bar[] = hosts.flatMap(({ parts }, row) => lanesOf(parts).map((bar) => ({ row, ...bar })));
  const x = (time: string) => (Date.parse(time) - first) / 1000 / size;
  return svgPlot(
    {
      width: 860,
      height: 70 + 26 * hosts.length,
      marginLeft: 120,
      marginRight: 20,
      marginTop: 10,
      marginBottom: 40,
      x: { domain: [0, seconds / size], ticks: 8, tickSize: 0, label: unit, labelAnchor: "center", labelArrow: "none" },
      y: {
        domain: [hosts.length, 0],
        ticks: hosts.map((_, at) => at + 0.5),
        tickFormat: (at: number) => hosts[Math.floor(at)]?.host ?? "",
        tickSize: 0,
        label: null,
      },
      marks: [
        Plot.rect(bars, {
          x1: (bar: Bar) => x(bar.part.started_at),
          x2: (bar: Bar) => x(bar.part.ended_at),
          y1: (bar: Bar) => bar.row + 0.12 + (0.76 * bar.lane) / bar.lanes,
          y2: (bar: Bar) => bar.row + 0.12 + (0.76 * (bar.lane + 1)) / bar.lanes,
          fill: "var(--killed)",
          fillOpacity: 0.55,
          stroke: "var(--paper)",
          title: (bar: Bar) => `part ${bar.part.part} on ${bar.part.host}: ${duration(bar.part.seconds)}`,
        }),
      ],
    },
    {
      alt: `When each machine worked: ${counted(numbers.part_count, "part")} on ${counted(hosts.length, "machine")}.`,
      minWidth: 720,
    },
  );
}

/** Parts of one machine on as few lines as it takes for none to overlap. */
function lanesOf(parts: PartsNumbers["parts"]) {
  const ends: string[] = [];
  const placed = [...parts]
    .sort((a, b) => (a.started_at < b.started_at ? -1 : 1))
    .map((part) => {
      const free = ends.findIndex((end) => end <= part.started_at);
      const lane = free < 0 ? ends.length : free;
      ends[lane] = part.ended_at;
      return { part, lane };
    });
  return placed.map((bar) => ({ ...bar, lanes: ends.length }));
}
