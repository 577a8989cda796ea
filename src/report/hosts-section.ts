import type { PartsNumbers } from "../record/parts.js";
import { byteSize, count, counted, duration } from "./number-words.js";
import { type Block, code, paragraph, say, strong, type Text } from "./report-text.js";
import { limited, table } from "./table.js";

/** What one machine did of an operation in parts. */
export interface HostWork {
  readonly host: string;
  readonly parts: PartsNumbers["parts"];
  readonly bytes: number;
  readonly seconds: number;
}

/** By host, in the order of their names. */
export function workByHost({ parts }: PartsNumbers): HostWork[] {
  const hosts = new Map<string, PartsNumbers["parts"][number][]>();
  for (const part of parts) hosts.set(part.host, [...(hosts.get(part.host) ?? []), part]);
  return [...hosts]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([host, mine]) => ({
      host,
      parts: mine,
      bytes: mine.reduce((sum, part) => sum + part.byte_length, 0),
      seconds: mine.reduce((sum, part) => sum + part.seconds, 0),
    }));
}

/** Who did which parts, and when. */
export function hostsBlocks(numbers: PartsNumbers): Block[] {
  const hosts = workByHost(numbers);
  const { part_count, seconds, busy_seconds, join_seconds } = numbers;
  const rows = hosts.map(({ host, parts, bytes, seconds: busy }): Text[] => [
    say`${code(host)}`,
    say`${count(parts.length)}`,
    say`${byteSize(bytes)}`,
    say`${duration(busy)}`,
    say`${count(parts.filter(({ resumed_tensors }) => resumed_tensors > 0).length)}`,
  ]);
  return [
    paragraph(
      say`It was cut into ${strong(counted(part_count, "part"))} for ${counted(hosts.length, "machine")}:
        ${duration(seconds)} from the first part's beginning to the last one's end, ${duration(busy_seconds)} of all
        parts together, then ${duration(join_seconds)} to look at every byte and to join them.`,
    ),
    {
      kind: "picture",
      picture: "hosts",
      title: "Parts over time",
      caption: say`A line a machine; each bar is a part at work.`,
    },
    limited(
      table("Parts by machine", ["Machine", "Parts", "Bytes", "Time at work", "Resumed"], rows, [1, 2, 3, 4]),
      say`surgery.json has every part`,
    ),
  ];
}
