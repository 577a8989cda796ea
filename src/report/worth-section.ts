import type { ReportInput, WorthNumbers } from "../record/report-input.js";
import { byteSize, count, fixed, percent } from "./number-words.js";
import {
  type Block,
  code,
  command,
  foreign,
  paragraph,
  type Section,
  say,
  shellQuote,
  strong,
  type Text,
} from "./report-text.js";

/** What the zeros are worth in bytes, and in which memory the model fits. */
export function worthSection(report: ReportInput): Section {
  const { worth } = report;
  const title = "What the zeros are worth";
  if (worth == null) {
    return {
      id: "worth",
      title,
      blocks: [
        paragraph(
          say`${strong("Not worked out.")} On disk a zero takes as much room as any other weight, so this output is as
            large as its donor. ${command(`physarium pack ${shellQuote(report.output.path)} PACKED`)} stores it without
            loss and without the zeros.`,
        ),
      ],
    };
  }
  const estimated = worth.packed_is !== "exact";
  const sampled = worth.sampled_weights < worth.weights ? `${count(worth.sampled_weights)} sampled` : "all";
  const left = `memories with ${percent(worth.reserved_fraction, 0)} left free for the rest of the engine`;
  const dashed = memoriesInSight(worth).length > 0 ? `; the dashed lines are ${left}` : "";
  const fits = worth.formats.map(({ format }) => smallestMemory(worth, format));
  // The same words in every row say nothing.
  const fitSays = new Set(fits).size > 1;
  const blocks: Block[] = [
    paragraph(
      say`${percent(worth.sparsity)} of all ${count(worth.weights)} weights are zero. Packed without loss, the tensors
        take ${strong(byteSize(worth.size_packed))} instead of ${byteSize(worth.size_now)}:
        ${strong(percent(worth.packed_fraction))} of their
        size${
          estimated ? `, by the packer's own code lengths on ${sampled} weights` : ", read from the packed files"
        }. No coder that treats weights one by one and leaves signs and mantissas raw could get below
        ${byteSize(worth.size_entropy_bound)}.`,
    ),
    {
      kind: "picture",
      picture: "formats",
      title: "The same model in other formats",
      caption: say`Size of the tensors in each
        format${dashed}.
        Paler bars round the weights.`,
    },
    {
      kind: "table",
      caption: "Formats",
      columns: [
        { name: "Format" },
        { name: "Size", numeric: true },
        { name: "Bits a weight", numeric: true },
        { name: "Weights" },
        { name: "Zeros" },
        ...(fitSays ? [{ name: "Fits in" }] : []),
      ],
      rows: worth.formats.map((format): Text[] => [
        say`${foreign(formatName(format.format))}`,
        say`${byteSize(format.size)}`,
        say`${fixed(format.bits_per_weight, 2)}`,
        say`${format.lossy ? "rounded" : "bit for bit"}`,
        say`${format.holds_exact_zeros ? "stay zero" : "may not stay zero"}`,
        ...(fitSays ? [say`${smallestMemory(worth, format.format)}`] : []),
      ]),
      note: say`${fitSays ? "" : `Each of them fits in ${fits[0]}. `}A memory of “8 GB” is 8 × 2³⁰ bytes, as makers of
        cards count; sizes are in GB of 10⁹ bytes.`,
    },
    {
      kind: "table",
      caption: "By kind of tensor",
      columns: [
        { name: "Kind" },
        { name: "Tensors", numeric: true },
        { name: "Weights", numeric: true },
        { name: "Zero", numeric: true },
        { name: "Size now", numeric: true },
        { name: "Packed", numeric: true },
        { name: "Packed of now", numeric: true },
      ],
      rows: worth.by_kind
        .slice(0, 40)
        .map((kind): Text[] => [
          say`${code(kind.kind)}`,
          say`${count(kind.tensors)}`,
          say`${count(kind.weights)}`,
          say`${percent(kind.sparsity)}`,
          say`${byteSize(kind.size_now)}`,
          say`${byteSize(kind.size_packed)}`,
          say`${percent(kind.packed_fraction)}`,
        ]),
      folded: true,
    },
  ];
  return { id: "worth", title, blocks };
}

/** Memories a picture of the formats can show: those far beyond the model would squeeze its bars to nothing. */
export function memoriesInSight(worth: WorthNumbers): { gigabytes: number; room: number }[] {
  const largest = worth.formats.reduce((most, { size }) => Math.max(most, size), 0);
  return worth.memories
    .map(({ gigabytes, bytes }) => ({ gigabytes, room: bytes * (1 - worth.reserved_fraction) }))
    .filter(({ room }) => room <= largest * 1.35 && room >= largest * 0.05);
}

/** The smallest of the memories that holds a format with the reserve left free. */
function smallestMemory({ memories }: WorthNumbers, format: string): string {
  const fitting = memories.filter(({ fits }) => fits.includes(format)).map(({ gigabytes }) => gigabytes);
  return fitting.length > 0 ? `${Math.min(...fitting)} GB and up` : "none of these";
}

/** `as_is` and `packed` in words; names of GGUF types stay. */
export function formatName(format: string): string {
  return format === "as_is" ? "as it is" : format === "packed" ? "packed, lossless" : format;
}
