import { resolve } from "node:path";
import type { Command } from "commander";
import type { LayerSettings } from "../calibration/layer-surgery.js";
import { defaultMemoryBytes, gramModeFor } from "../calibration/memory.js";
import type { Donor } from "../checkpoint/donor.js";
import { jsonLine, printable } from "../errors.js";
import { isHubAddress } from "../hub/address.js";
import { isOffline } from "../hub/environment.js";
import type { FetchEstimate } from "../hub/fetch-estimate.js";
import { WIRE_BYTES, withLoadWarnings } from "../probe/load-warnings.js";
import { openForSurgery } from "../surgery/open-for-surgery.js";
import { checkOptions } from "../surgery/options.js";
import { type Plan, type PlannedTensor, planSurgery } from "../surgery/plan.js";
import { measureReadRate } from "../surgery/read-rate.js";
import { fetchTexts, folderArgument } from "./model-argument.js";
import { fetchJson, fetchLines, fetchTime } from "./plan-fetch.js";
import { duration, type ProgressStyle } from "./progress.js";
import { endOnSignal } from "./stop-signal.js";
import { addSurgeryOptions, type SurgeryFlags, toSurgeryOptions } from "./surgery-options.js";

/** `physarium plan <donor>` */
export function registerPlan(program: Command): void {
  const command = program
    .command("plan")
    .description("what surgery would do: targets and why, memory, bytes, time; reads no weights, writes nothing")
    .argument("<donor>", "model folder with safetensors files, or hf://org/name: of that config, index and headers");
  addSurgeryOptions(command)
    .option("--json", "the whole plan as one JSON object")
    .addHelpText(
      "after",
      `
Examples:
  physarium plan ./model
  physarium plan hf://HuggingFaceTB/SmolLM2-135M         nothing is downloaded
  physarium plan ./model --exclude 'down_proj' --json | jq .memory`,
    )
    .action(async (donorPath: string, flags: SurgeryFlags & { json?: boolean }) => {
      endOnSignal("nothing was written");
      await fetchTexts(flags, flags, "calibration");
      const options = checkOptions(toSurgeryOptions(flags));
      const { donor, fetch } = await openForPlan(donorPath, flags);
      const plan = planSurgery(donor, options, true);
      const rate = fetch?.bytesPerSecond ?? (await measureReadRate(plan));
      // What calibrates is read by the engine, from a folder.
      const calibrated = fetch === undefined ? await calibratedOn(plan) : undefined;
      if (flags.json) for (const text of jsonOf(plan, rate, calibrated, fetch)) process.stdout.write(text);
      else process.stdout.write(`${describe(plan, rate, calibrated, fetch)}\n`);
    });
}

/** The donor of a folder, or of an address over the wire: then with what fetching it would take. */
async function openForPlan(given: string, style: ProgressStyle): Promise<{ donor: Donor; fetch?: FetchEstimate }> {
  if (!isHubAddress(given) || isOffline())
    return { donor: await openForSurgery(resolve(await folderArgument(given, style))) };
  const { lookOverTheWire } = await import("./hub-model.js");
  const { donor, fetch } = await lookOverTheWire(given, style);
  return { donor: await withLoadWarnings(donor, WIRE_BYTES), fetch };
}

/**
 * What v2 would calibrate on. Throws what surgery would before it reads weights: a plan that surgery refuses is none.
 */
async function calibratedOn(plan: Plan): Promise<Calibrated | undefined> {
  const { activation } = plan.options;
  if (activation === undefined || plan.targetTensors === 0) return undefined;
  const { LayerFlow } = await import("../surgery/layer-flow.js");
  const flow = await LayerFlow.open(plan, activation);
  try {
    return flow.calibration;
  } finally {
    await flow.close();
  }
}

interface Calibrated {
  readonly samples: number;
  readonly tokens: number;
}

/** The plan as one line of JSON, in pieces: that of 100,000 tensors takes 30 MB, and several times that as objects. */
function* jsonOf(
  plan: Plan,
  rate: number,
  calibrated: Calibrated | undefined,
  fetch: FetchEstimate | undefined,
): Generator<string> {
  yield jsonLine({ ...toJson(plan, rate, calibrated, fetch), ...fetchJson(fetch) }).replace(/\}\n$/, ',"tensors":[');
  let separator = "";
  for (const { tensors } of plan.shards) {
    for (let start = 0; start < tensors.length; start += TENSORS_PER_WRITE) {
      const piece = tensors
        .slice(start, start + TENSORS_PER_WRITE)
        .map((tensor) => jsonLine(tensorToJson(tensor)).trimEnd());
      yield `${separator}${piece.join(",")}`;
      separator = ",";
    }
  }
  yield "]}\n";
}

const TENSORS_PER_WRITE = 1_000;

function tensorToJson(tensor: PlannedTensor) {
  const { name, shard, dtype, shape, byteOffset, byteLength, role, reason, layer, projection, kind, tiles } = tensor;
  return {
    name,
    shard,
    dtype,
    shape,
    byte_offset: byteOffset,
    byte_length: byteLength,
    role,
    reason,
    layer,
    projection,
    kind: kind ?? null,
    in_decoder: tensor.inDecoder,
    stored_by_input: tensor.target?.storedByInput ?? false,
    tiles,
  };
}

/** All but the tensors, in snake_case as every JSON of ours. */
function toJson(plan: Plan, rate: number, calibrated: Calibrated | undefined, fetch: FetchEstimate | undefined) {
  const { donor, options, memory } = plan;
  return {
    donor: {
      path: donor.path,
      total_size: donor.totalSize,
      tensor_count: donor.tensorCount,
      shard_count: plan.shards.length,
      model_weights: donor.modelWeights,
    },
    flow: options.flow,
    flow_version: options.flowVersion,
    params: {
      block_size: options.params.blockSize,
      n_iter: options.params.nIter,
      beta: options.params.beta,
      survival: isSurvivalInForce(plan) ? options.params.survival : null,
    },
    activation: options.activation === undefined ? null : activationJson(plan, options.activation, calibrated),
    target_sparsity: options.targetSparsity ?? null,
    target_tensors: plan.targetTensors,
    target_weights: plan.targetWeights,
    tiles: plan.tiles,
    decoder: plan.decoder,
    side_files: plan.sideFiles.map(({ file, byteLength }) => ({ file, byte_length: byteLength })),
    left_out: plan.leftOut,
    memory: {
      workers: memory.workers,
      slots: memory.slots,
      slot_bytes: memory.slotByteLength,
      peak_bytes: memory.peakByteLength,
    },
    bytes_to_read: plan.bytesToRead,
    bytes_to_write: plan.bytesToWrite,
    read_bytes_per_second: rate,
    // What v2 takes is decided by its products, not by the disk: docs/performance.md has figures.
    estimated_seconds: options.activation === undefined ? estimate(plan, rate, fetch) : null,
    warnings: plan.warnings,
  };
}

/** Reading and writing share a disk: bytes moved at the rate just seen. Over the wire the fetch decides. */
function estimate(plan: Plan, rate: number, fetch: FetchEstimate | undefined): number {
  if (fetch !== undefined) return (fetch.bytesTotal - fetch.bytesCached) / rate;
  return (plan.bytesToRead + plan.bytesToWrite) / rate;
}

function describe(
  plan: Plan,
  rate: number,
  calibrated: Calibrated | undefined,
  fetch: FetchEstimate | undefined,
): string {
  const { donor, options, memory, shards } = plan;
  const n = (value: number) => value.toLocaleString("en-US");
  const { blockSize, nIter, beta } = options.params;
  const lines = [
    `donor     ${printable(donor.path)}: ${n(donor.tensorCount)} tensors in ${shards.length} ` +
      `${shards.length === 1 ? "file" : "shards"}, ${n(donor.totalSize)} bytes, ${n(donor.modelWeights)} weights`,
    `flow      ${options.flow} (${options.flowVersion}), ` +
      `${options.activation === undefined ? `tiles of ${blockSize} × ${blockSize}, ` : ""}${nIter} iterations, β = ` +
      `${beta}, ${aimOf(plan)}`,
    ...(options.activation === undefined ? [] : activationLines(plan, options.activation, calibrated)),
    `targets   ${n(plan.targetTensors)} tensors, ${n(plan.targetWeights)} weights ` +
      `(${percent(plan.targetWeights, donor.modelWeights)} of the model) in ${n(plan.tiles)} tiles`,
    ...groupLines(plan, "target"),
    ...decoderLines(plan),
    `carried   ${n(donor.tensorCount - plan.targetTensors)} tensors, byte for byte`,
    ...groupLines(plan, "carried"),
    `copied    ${plan.sideFiles.length} side files: ` +
      `${printable(plan.sideFiles.map(({ file }) => file).join(", ")) || "none"}`,
    ...plan.leftOut.map(({ file, reason }) => `left out  ${printable(file)}: ${reason}`),
    ...plan.warnings.map(({ code, message }) => `warning   ${printable(message)} [${code}]`),
    `memory    about ${n(Math.round(memory.peakByteLength / 1e6))} MB at most: ` +
      (options.activation === undefined
        ? `${memory.workers} workers × ${memory.slots} pieces of up to ${n(memory.slotByteLength)} bytes`
        : "the budget, and what Node itself takes"),
    `bytes     ${n(plan.bytesToRead)} to read, ${n(plan.bytesToWrite)} to write`,
    ...(fetch === undefined ? [] : fetchLines(fetch, plan)),
    fetch !== undefined
      ? fetchTime(fetch, estimate(plan, rate, fetch))
      : options.activation === undefined
        ? `time      about ${duration(estimate(plan, rate, undefined))}, if the disk moves ` +
          `${(rate / 1e9).toFixed(2)} GB/s as it did just now reading a sample`
        : "time      not estimated: forward passes and matrix products decide, and the first layer will tell",
  ];
  if (plan.targetTensors === 0) lines.push("surgery would refuse this donor: it has no target [DONOR_NO_TARGET]");
  return lines.join("\n");
}

/** What the flow is told to reach. */
function aimOf({ options }: Plan): string {
  const { targetSparsity, activation, params } = options;
  if (activation?.target.kind === "pattern") {
    const { keep, of } = activation.target.pattern;
    return `${keep} of every ${of} inputs kept`;
  }
  if (targetSparsity === undefined) return `survival ${params.survival}`;
  const zeros = `${100 * targetSparsity} % zeros`;
  return activation === undefined
    ? `survival to be searched for ${zeros} (one more read of the targets)`
    : `${zeros}, ` +
        `${activation.allocation === "uniform" ? "the same in every row" : `shared out by ${activation.allocation}`}`;
}

function isSurvivalInForce({ options }: Plan): boolean {
  return options.targetSparsity === undefined && (options.activation?.target.kind ?? "emergent") === "emergent";
}

/** Calibration, Grams and budget of v2. */
function activationLines(plan: Plan, settings: LayerSettings, calibrated: Calibrated | undefined): string[] {
  const { calibration, seed, protocol, options } = settings;
  const { memory_bytes, grams, samples, tokens } = activationJson(plan, settings, calibrated);
  const source = calibration === undefined ? "text the donor writes itself" : printable(calibration);
  const wide = Object.entries(grams).map(
    ([cols, mode]) => `${cols} inputs ${mode === "tile" ? `in tiles of ${plan.options.params.blockSize}` : "whole"}`,
  );
  const read = Object.entries(protocol ?? {}).map(([name, value]) => `, ${name} ${value}`);
  return [
    `calibrate ${samples} samples${tokens === null ? "" : `, ${tokens.toLocaleString("en-US")} tokens`} of ` +
      `${source}, seed ${seed}${printable(read.join(""))}`,
    `survivors ${options?.heal === false ? "keep the donor's bits (--no-heal)" : "are healed by least squares"}`,
    `budget    ${(memory_bytes / 2 ** 30).toFixed(1)} GiB (--memory); Grams: ${wide.join(", ")}`,
  ];
}

function activationJson({ shards }: Plan, settings: LayerSettings, calibrated: Calibrated | undefined) {
  const { target, calibration, window, protocol, seed, allocation, gram, options } = settings;
  const memoryBytes = settings.memoryBytes ?? defaultMemoryBytes();
  const widths = new Set(shards.flatMap(({ tensors }) => tensors.flatMap((tensor) => tensor.target?.cols ?? [])));
  return {
    target,
    calibration: calibration ?? null,
    samples: calibrated?.samples ?? settings.samples,
    tokens: calibrated?.tokens ?? null,
    window: window ?? null,
    protocol: protocol ?? null,
    seed,
    allocation,
    heal: options?.heal ?? true,
    memory_bytes: memoryBytes,
    grams: Object.fromEntries([...widths].map((cols) => [cols, gramModeFor(cols, gram, memoryBytes)])),
  };
}

function percent(part: number, whole: number): string {
  return whole === 0 ? "0 %" : `${((100 * part) / whole).toFixed(2)} %`;
}

/** How much of the decoder's matrices is targeted, and what is not. */
function decoderLines({ decoder }: Plan): string[] {
  const { weights: all, target_weights, untouched } = decoder;
  return [
    `decoder   ${percent(target_weights, all)} of the ${all.toLocaleString("en-US")} weights in the matrices of ` +
      "its layers",
    ...untouched.map(
      ({ pattern, tensors, weights, why }) =>
        `  untouched ${tensors} × ${printable(pattern)}  ${percent(weights, all)}  ${why}`,
    ),
  ];
}

/** Tensors that differ in numbers alone (layer, expert) share a line. */
function groupLines(plan: Plan, role: "target" | "carried"): string[] {
  const groups = new Map<string, { tensor: PlannedTensor; names: string[] }>();
  for (const shard of plan.shards) {
    for (const tensor of shard.tensors) {
      if (tensor.role !== role) continue;
      const key = [tensor.name.replace(/\d+/g, "#"), tensor.dtype, tensor.shape.join(), tensor.reason].join("\n");
      const group = groups.get(key);
      if (group === undefined) groups.set(key, { tensor, names: [tensor.name] });
      else group.names.push(tensor.name);
    }
  }
  return [...groups.values()].map(({ tensor, names }) => {
    const name = names.length === 1 ? tensor.name : tensor.name.replace(/\d+/g, "N");
    return (
      `  ${String(names.length).padStart(6)} × ${printable(name)}  ${tensor.dtype} [${tensor.shape.join(", ")}]  ` +
      `${tensor.reason}`
    );
  });
}
