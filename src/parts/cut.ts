import { heapBins } from "./bins.js";

/** A shard as far as cutting it goes: its tensors in the order of their data. */
export interface CuttableShard {
  readonly file: string;
  readonly byteLength: number;
  readonly dataByteOffset: number;
  readonly tensors: readonly { readonly name: string; readonly byteOffset: number; readonly byteLength: number }[];
}

/** Some tensors of a shard that stand side by side, or all of it. */
export interface Slice {
  /** Its position in the order of the run. */
  readonly shard: number;
  /** Tensors `first` … `end − 1` of the shard. */
  readonly first: number;
  readonly end: number;
  /** The whole file, header included: nothing is to be joined. */
  readonly isWhole: boolean;
  readonly byteLength: number;
}

/** A shard of up to this many times the bytes of a part goes to one machine whole. */
const HUGE = 1.5;
/** An end that comes this near to a shard's, in parts, moves onto it. */
const NEAR = 0.2;
/** An expert's matrices stay together: it is a part of the model, and of the work. */
const EXPERT = /^.*\bexperts?\.\d+(?=\.)/;

/**
 * Cut a model into at most `maxParts` parts of like bytes, the same ones for the same donor on any machine. Whole
 * shards are dealt out, the largest first; shards that are larger than a part are cut between tensors, and never
 * within an expert.
 *
 * returns  the slices of each part, in the order of the run
 */
export function cutIntoParts(shards: readonly CuttableShard[], maxParts: number): Slice[][] {
  const total = shards.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const share = total / maxParts;
  const isHuge = (shard: CuttableShard) => shard.byteLength > HUGE * share && groupsOf(shard).length > 1;
  const huge = shards.flatMap((shard, at) => (isHuge(shard) ? [at] : []));
  const whole = shards.flatMap((shard, at) => (isHuge(shard) ? [] : [at]));
  const hugeBytes = huge.reduce((sum, at) => sum + shards[at].byteLength, 0);
  const mostForHuge = whole.length === 0 ? maxParts : maxParts - 1;
  const forHuge = Math.min(mostForHuge, Math.round(hugeBytes / share));
  const parts = [
    ...(huge.length === 0 ? [] : cutStream(shards, huge, Math.max(1, forHuge))),
    ...dealOut(shards, whole, maxParts - (huge.length === 0 ? 0 : Math.max(1, forHuge))),
  ];
  return parts.sort(([a], [b]) => a.shard - b.shard || a.first - b.first);
}

/** Whole shards into bins of like bytes. */
function dealOut(shards: readonly CuttableShard[], whole: readonly number[], bins: number): Slice[][] {
  const largestFirst = [...whole].sort((a, b) => shards[b].byteLength - shards[a].byteLength || a - b);
  return heapBins(largestFirst, (at) => shards[at].byteLength, bins).map((bin) =>
    bin.sort((a, b) => a - b).map((shard) => wholeSlice(shards, shard)),
  );
}

/** Huge shards, one after the other, into stretches of like bytes. */
function cutStream(shards: readonly CuttableShard[], huge: readonly number[], count: number): Slice[][] {
  const total = huge.reduce((sum, at) => sum + shards[at].byteLength, 0);
  const parts: Slice[][] = [[]];
  let passed = 0;
  let begin = 0;
  /** What is left to each of the parts that are left: a tensor that is larger than a part leaves less to the others. */
  const share = () => (total - begin) / (count - parts.length + 1);
  for (const at of huge) {
    const shard = shards[at];
    const shardEnd = passed + shard.byteLength;
    let first = 0;
    const groups = groupsOf(shard);
    for (const [position, { end, endByte }] of groups.entries()) {
      const isLast = position === groups.length - 1;
      const next = isLast ? 0 : groups[position + 1].endByte - endByte;
      const due = begin + share();
      const here = passed + endByte;
      const isDue = here + next / 2 >= due && here - begin >= share() / 2;
      // The shard's own end is near enough to wait for: one file less to join.
      const waits = shardEnd - due <= NEAR * share();
      if (!isLast && (!isDue || waits || parts.length === count)) continue;
      parts.at(-1)!.push(sliceOf(shards, at, first, end));
      first = end;
      if (parts.length === count || (isLast && shardEnd < due - NEAR * share())) continue;
      begin = here;
      parts.push([]);
    }
    passed = shardEnd;
  }
  return parts.filter((slices) => slices.length > 0);
}

function wholeSlice(shards: readonly CuttableShard[], shard: number): Slice {
  return sliceOf(shards, shard, 0, shards[shard].tensors.length);
}

function sliceOf(shards: readonly CuttableShard[], shard: number, first: number, end: number): Slice {
  const { tensors, byteLength } = shards[shard];
  const isWhole = first === 0 && end === tensors.length;
  const bytes = tensors.slice(first, end).reduce((sum, tensor) => sum + tensor.byteLength, 0);
  return { shard, first, end, isWhole, byteLength: isWhole ? byteLength : bytes };
}

/** Where a shard may be cut: behind each tensor, but not within an expert; tensors of no bytes go with others. */
function groupsOf({ tensors }: CuttableShard): { readonly end: number; readonly endByte: number }[] {
  const groups: { end: number; endByte: number }[] = [];
  let begin = tensors[0]?.byteOffset ?? 0;
  for (const [at, { name, byteOffset, byteLength }] of tensors.entries()) {
    const expert = EXPERT.exec(name)?.[0];
    const next = tensors[at + 1];
    if (next !== undefined) {
      if (expert !== undefined && EXPERT.exec(next.name)?.[0] === expert) continue;
      if (next.byteLength === 0 || byteOffset + byteLength === begin) continue;
    }
    begin = byteOffset + byteLength;
    groups.push({ end: at + 1, endByte: begin });
  }
  return groups;
}
