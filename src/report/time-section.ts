import type { ReportInput } from "../record/report-input.js";
import { hostsBlocks } from "./hosts-section.js";
import { byteSize, count, duration, percent, share } from "./number-words.js";
import { type Block, code, paragraph, type Section, say, strong, type Text } from "./report-text.js";
import { limited, table } from "./table.js";

/** How long the operation took, shard by shard. */
export function timeSection(report: ReportInput): Section {
  const shards = [...report.shards].sort((a, b) => a.order - b.order);
  let before = 0;
  const rows = shards.map((shard): Text[] => {
    const delta = shard.killed_cumulative - before;
    before = shard.killed_cumulative;
    return [
      say`${code(shard.file)}`,
      say`${count(shard.order)}`,
      say`${duration(shard.seconds)}`,
      say`${count(delta)}`,
      say`${count(shard.killed_cumulative)}`,
      say`${percent(share(shard.killed_cumulative, report.totals.target_weights))}`,
    ];
  });
  const blocks: Block[] = [
    paragraph(
      say`The whole operation took
        ${strong(duration(report.wall_seconds))}${
          report.wall_seconds > 0
            ? `, ${byteSize(report.donor.total_size / report.wall_seconds)} of model a second`
            : ""
        },
        with at most ${byteSize(report.peak_rss_bytes)} of memory.`,
    ),
  ];
  if (report.parts != null) blocks.push(...hostsBlocks(report.parts));
  // One shard is no course of events.
  if (shards.length > 1) {
    blocks.push({
      kind: "picture",
      picture: "timeline",
      title: "Shards and kills over time",
      caption: say`Weights killed since the start at the end of each shard, in the order of the run.`,
    });
  }
  if (shards.length > 0) {
    blocks.push(
      limited(
        table(
          "Wall clock by shard",
          ["Shard", "Order", "Time", "Killed in it", "Killed so far", "So far, of target weights"],
          rows,
          [1, 2, 3, 4, 5],
        ),
        say`surgery.json has the rest`,
      ),
    );
  }
  return { id: "time", title: "Wall clock by shard", blocks };
}
