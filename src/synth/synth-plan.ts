import { basename, join } from "node:path";
import { attempt, type FileLayer, readSmallFile } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { type FloatDtype, isFloatDtype } from "../safetensors/dtypes.js";
import { INDEX_FILE, parseShardIndex, type ShardIndex } from "../safetensors/shard-index.js";
import { DISTRIBUTIONS, type Distribution } from "./distribution.js";
import { deriveTensors, type ModelConfig, parseObject, parseTensorShapes, scaleModel } from "./model-shape.js";
import { indexText, type ShardLayout, splitByCount, splitByIndex, splitBySize, totalBytes } from "./shard-layout.js";

export const SHAPES_FILE = "tensor_shapes.json";

/** Says that a folder was written by synth, and how; `--overwrite` replaces only a folder that has it. */
export const MARKER_FILE = "physarium-synth.json";

export interface SynthOptions {
  /** Any text; equal seeds give equal bytes. Default "0". */
  readonly seed?: string;
  /** Default `gaussian`. */
  readonly distribution?: Distribution;
  /** Default: `torch_dtype` of the configuration, BF16 where it names none. */
  readonly dtype?: FloatDtype;
  /** Layers and vocabulary rows times this, 0 < scale ≤ 1. Default 1. */
  readonly scale?: number;
}

/** Everything decided before the first byte: what will stand in the new folder. */
export interface SynthPlan {
  readonly source: string;
  readonly seed: string;
  readonly distribution: Distribution;
  readonly dtype: FloatDtype;
  readonly scale: number;
  /** Standard deviation of matrices and biases: the configuration's `initializer_range`. */
  readonly std: number;
  readonly shards: readonly ShardLayout[];
  readonly tensorCount: number;
  /** Bytes of all tensors, as in the index. */
  readonly totalSize: number;
  /** config.json, the index and the marker, ready to write. */
  readonly texts: ReadonlyMap<string, Uint8Array>;
  /** Carried over byte for byte from the config folder. */
  readonly sideFiles: readonly string[];
}

/** Side files are small (a tokenizer is some 10 MB); what is larger is left behind. */
const MAX_SIDE_FILE_BYTES = 100_000_000;

/** Weights never come along: the donor's would be real ones. */
const WEIGHT_FILE = /\.(safetensors|bin|pth?|ckpt|gguf|ggml|h5|msgpack|onnx|onnx_data|npz|tflite|mlmodel|ot)$/i;

const DTYPE_NAMES: Record<string, FloatDtype> = { bfloat16: "BF16", float16: "F16", float32: "F32" };

/**
 * Read a config folder and decide the new donor. Writes nothing.
 *
 * Names and shapes come from `tensor_shapes.json` where there is one, else from `config.json`; shards from the index
 * where there is one, else as Hugging Face splits. Throws `USAGE_SYNTH_*` for options and `DONOR_*` for what is wrong
 * in the folder.
 */
export async function planSynth(source: string, options: SynthOptions, files: FileLayer): Promise<SynthPlan> {
  const { seed = "0", distribution = "gaussian", scale = 1 } = options;
  checkOptions(distribution, options.dtype, scale);
  const { present, sideFiles } = await listSource(source, files);
  if (!present.has("config.json")) {
    throw new PhysariumError(
      "DONOR_CONFIG",
      `${source}: found no config.json; give a folder with the configuration of a model`,
      { path: source },
    );
  }
  const configBytes = await readSmallFile(join(source, "config.json"), files);
  const configPath = join(source, "config.json");
  let config: ModelConfig = parseObject(decode(configBytes), configPath);
  let shapes = present.has(SHAPES_FILE)
    ? parseTensorShapes(decode(await readSmallFile(join(source, SHAPES_FILE), files)), join(source, SHAPES_FILE))
    : deriveTensors(config, configPath);
  const indexBytes = present.has(INDEX_FILE) ? await readSmallFile(join(source, INDEX_FILE), files) : undefined;
  const index = indexBytes === undefined ? undefined : parseShardIndex(indexBytes, join(source, INDEX_FILE));
  if (index !== undefined) checkIndex(index, new Set(shapes.map(({ name }) => name)), source);

  const dtypeKey = config.torch_dtype === undefined && config.dtype !== undefined ? "dtype" : "torch_dtype";
  const configured = DTYPE_NAMES[String(config[dtypeKey])];
  const dtype = options.dtype ?? configured ?? "BF16";
  const layers = config.num_hidden_layers;
  if (scale !== 1) ({ config, tensors: shapes } = scaleModel(config, shapes, scale, configPath));
  const changed = scale !== 1 || configured !== dtype;
  if (configured !== dtype) {
    const name = Object.keys(DTYPE_NAMES).find((key) => DTYPE_NAMES[key] === dtype);
    config = { ...config, [dtypeKey]: name };
  }

  const tensors = shapes.map((shape) => ({ ...shape, dtype }));
  const shards =
    index === undefined
      ? scale === 1
        ? splitBySize(tensors)
        : splitByCount(tensors, splitBySize(tensors).length)
      : scale === 1
        ? splitByIndex(tensors, index.weightMap)
        : splitByCount(tensors, new Set(index.weightMap.values()).size);

  const texts = new Map<string, Uint8Array>();
  texts.set("config.json", changed ? encode(`${JSON.stringify(config, null, 2)}\n`) : configBytes);
  const sharded = shards.length > 1 || shards[0].file !== "model.safetensors";
  if (sharded) {
    const verbatim = scale === 1 && index?.totalSize === totalBytes(shards) ? indexBytes : undefined;
    texts.set(INDEX_FILE, verbatim ?? encode(indexText(shards)));
  }
  const std = typeof config.initializer_range === "number" ? config.initializer_range : 0.02;
  if (!(std > 0 && std < 1e3)) {
    throw new PhysariumError(
      "DONOR_CONFIG",
      `${configPath}: initializer_range is ${std}, expected a positive number; it is the standard deviation of the ` +
        "weights",
      { key: "initializer_range" },
    );
  }
  texts.set(
    MARKER_FILE,
    encode(
      `${JSON.stringify(
        {
          note:
            "Random weights written by `physarium synth`: the tensors and files of a real model, " +
            "nothing it learned.",
          source: basename(source),
          seed,
          distribution,
          dtype,
          scale,
          std,
          ...(scale === 1 ? {} : { layers_of_the_real_model: layers }),
          files: [...texts.keys(), MARKER_FILE, ...shards.map(({ file }) => file), ...sideFiles].sort(),
        },
        null,
        2,
      )}\n`,
    ),
  );
  return {
    source,
    seed,
    distribution,
    dtype,
    scale,
    std,
    shards,
    tensorCount: tensors.length,
    totalSize: totalBytes(shards),
    texts,
    sideFiles,
  };
}

function checkOptions(distribution: string, dtype: string | undefined, scale: number): void {
  if (!(DISTRIBUTIONS as readonly string[]).includes(distribution)) {
    throw new PhysariumError(
      "USAGE_SYNTH_DISTRIBUTION",
      `--distribution ${distribution}: expected one of ${DISTRIBUTIONS.join(", ")}`,
      { distribution },
    );
  }
  if (dtype !== undefined && !isFloatDtype(dtype)) {
    throw new PhysariumError("USAGE_SYNTH_DTYPE", `--dtype ${dtype}: expected BF16, F16 or F32`, { dtype });
  }
  if (!(scale > 0 && scale <= 1)) {
    throw new PhysariumError("USAGE_SYNTH_SCALE", `--scale ${scale}: expected a number above 0 and up to 1`, { scale });
  }
}

async function listSource(source: string, files: FileLayer): Promise<{ present: Set<string>; sideFiles: string[] }> {
  let names: string[];
  try {
    names = await files.readdir(source);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") {
      throw new PhysariumError(
        "DONOR_NOT_FOUND",
        `${source}: there is no such folder; give a folder with the config.json of a model`,
        { path: source },
        error,
      );
    }
    return attempt("listing", source, () => Promise.reject(error));
  }
  const present = new Set<string>();
  const sideFiles: string[] = [];
  for (const name of names.sort()) {
    const path = join(source, name);
    const stat = await attempt("examining", path, () => files.stat(path));
    if (!stat.isFile()) continue;
    present.add(name);
    const ours = name === "config.json" || name === INDEX_FILE || name === SHAPES_FILE || name === MARKER_FILE;
    if (!ours && !WEIGHT_FILE.test(name) && stat.size <= MAX_SIDE_FILE_BYTES) sideFiles.push(name);
  }
  return { present, sideFiles };
}

function checkIndex(index: ShardIndex, names: ReadonlySet<string>, source: string): void {
  const extra = [...index.weightMap.keys()].filter((name) => !names.has(name));
  const missing = [...names].filter((name) => !index.weightMap.has(name));
  if (extra.length + missing.length === 0) return;
  const sample = [...extra, ...missing].slice(0, 3).join(", ");
  throw new PhysariumError(
    "DONOR_INDEX_MISMATCH",
    `${join(source, INDEX_FILE)}: it names ${extra.length} tensors without a known shape and lacks ` +
      `${missing.length} that have one (${sample}, …); put a ${SHAPES_FILE} beside it or remove the index`,
    { extra: extra.slice(0, 20), missing: missing.slice(0, 20) },
  );
}

function decode(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
