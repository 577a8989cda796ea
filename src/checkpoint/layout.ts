import { join } from "node:path";
import { PhysariumError } from "../errors.js";
import { INDEX_FILE, type ShardIndex } from "../safetensors/shard-index.js";
import { parsePythonJson } from "./python-json.js";

/** Which files of a folder make up the model. */
export interface Layout {
  /** Sorted by name. */
  readonly shardFiles: readonly string[];
  /** Absent for a single file, and where an index speaks of other files than those a loader takes. */
  readonly index: ShardIndex | undefined;
  readonly warnings: readonly { readonly code: string; readonly message: string }[];
  /** Files that would describe another set of weights, and why they stay out of an output. */
  readonly leftOut: ReadonlyMap<string, string>;
}

/** The folder as far as it is looked at: names of its files, and the bytes of small ones. */
export interface LayoutFolder {
  readonly path: string;
  readonly present: ReadonlySet<string>;
  readIndex(): Promise<ShardIndex>;
  read(file: string): Promise<Uint8Array>;
}

const SINGLE_FILE = "model.safetensors";
const ADAPTER_CONFIG = "adapter_config.json";

/**
 * Decide which safetensors files are the model, as the reference loader decides it: `model.safetensors` comes before an
 * index of other files.
 * source: transformers 5.24, `_get_resolved_checkpoint_files` in modeling_utils.py
 *
 * Throws `DONOR_*` where there are none, too many, or files of another kind, with the command that helps.
 */
export async function chooseLayout(folder: LayoutFolder): Promise<Layout> {
  const { path, present } = folder;
  if (!present.has(INDEX_FILE)) {
    const file = present.has(SINGLE_FILE) ? SINGLE_FILE : await onlyFile(folder);
    return { shardFiles: [file], index: undefined, warnings: [], leftOut: new Map() };
  }
  const index = await folder.readIndex();
  const shardFiles = [...new Set(index.weightMap.values())].sort();
  if (present.has(SINGLE_FILE) && shardFiles.length > 0 && !shardFiles.includes(SINGLE_FILE)) {
    const message =
      `${path}: ${SINGLE_FILE} lies beside an index of ${shardFiles.length} other shards; loaders take ` +
      `${SINGLE_FILE}, and so does Physarium: remove it if the shards are meant`;
    return {
      shardFiles: [SINGLE_FILE],
      index: undefined,
      warnings: [{ code: "WARN_TWO_MODELS", message }],
      leftOut: new Map([
        [INDEX_FILE, `it speaks of other files than ${SINGLE_FILE}, which loaders take`],
        ...shardFiles
          .filter((file) => present.has(file))
          .map((file) => [file, `weights beside ${SINGLE_FILE}: they would be the unoperated donor`] as const),
      ]),
    };
  }
  checkShards(shardFiles, folder);
  return { shardFiles, index, warnings: [], leftOut: new Map() };
}

function checkShards(shards: readonly string[], { path, present }: LayoutFolder): void {
  if (shards.length === 0) {
    throw new PhysariumError(
      "DONOR_NO_WEIGHTS",
      `${join(path, INDEX_FILE)}: its weight_map is empty; there is nothing to operate on`,
      { path },
    );
  }
  const missing = shards.filter((shard) => !present.has(shard));
  if (missing.length === 0) return;
  throw new PhysariumError(
    "DONOR_SHARD_MISSING",
    `${path}: the index names ${missing.length} of ${shards.length} shards that are not there: ` +
      `${missing.slice(0, 5).join(", ")}${missing.length > 5 ? ", …" : ""}; finish the download`,
    { path, missing },
  );
}

/** The model's file where nothing but its being alone says so. */
async function onlyFile(folder: LayoutFolder): Promise<string> {
  const { path, present } = folder;
  if (present.has(ADAPTER_CONFIG)) throw await adapter(folder);
  const candidates = [...present].filter((name) => name.endsWith(".safetensors"));
  if (candidates.length === 0) throw noWeights(folder);
  if (candidates.length === 1) {
    const [file] = candidates;
    if (/^adapters?(?:_model)?\.safetensors$/.test(file)) throw await adapter(folder);
    const part = /-(\d{5})-of-(\d{5})\./.exec(file);
    // One of one is the whole model, index or not.
    if (part === null || Number(part[2]) === 1) return file;
  }
  throw new PhysariumError(
    "DONOR_INDEX_MISSING",
    `${path}: found ${candidates.length} safetensors files ` +
      `(${candidates.slice(0, 3).join(", ")}${candidates.length > 3 ? ", …" : ""}) but no ${INDEX_FILE} to say how ` +
      "they belong together; download the index",
    { path, candidates },
  );
}

/** Low-rank factors without the model they belong to. */
async function adapter({ path, present, read }: LayoutFolder): Promise<PhysariumError> {
  let base = "its base model";
  if (present.has(ADAPTER_CONFIG)) {
    try {
      const config = parsePythonJson(await read(ADAPTER_CONFIG)) as { base_model_name_or_path?: unknown } | null;
      if (typeof config?.base_model_name_or_path === "string") base = config.base_model_name_or_path;
    } catch {
      // The adapter is refused with or without its base's name.
    }
  }
  return new PhysariumError(
    "DONOR_ADAPTER",
    `${path}: this is a PEFT adapter, not a model: it holds low-rank changes to ${base}; merge it first (Python: ` +
      "AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(OUT)) and give the merged " +
      "folder",
    { path, base },
  );
}

/** No safetensors file: say what lies there instead, and the command that makes a model folder of it. */
function noWeights({ path, present }: LayoutFolder): PhysariumError {
  const names = [...present].sort();
  const gguf = names.find((name) => /\.gguf$/i.test(name));
  if (gguf !== undefined)
    return ggufRefusal(join(path, gguf), `${path}: it holds GGUF files (${gguf}), no safetensors`);
  const pickled = names.find((name) => /\.(?:bin|pth?|ckpt)$/i.test(name));
  if (pickled !== undefined) {
    return new PhysariumError(
      "DONOR_PICKLE",
      `${path}: its weights are PyTorch pickles (${pickled}), which can run code when read; convert them once ` +
        `(${CONVERT_PICKLES}) and give the folder with the safetensors files`,
      { path, file: pickled },
    );
  }
  return new PhysariumError(
    "DONOR_NO_WEIGHTS",
    `${path}: found no ${SINGLE_FILE} and no ${INDEX_FILE}; give the folder of a model in safetensors format`,
    { path },
  );
}

/** A GGUF file where a model folder is expected. */
export function ggufRefusal(file: string, found: string): PhysariumError {
  return new PhysariumError(
    "DONOR_GGUF",
    `${found}; physarium import ${file} OUT makes a model folder of it, which every command takes`,
    { path: file },
  );
}

/** How PyTorch's pickles become safetensors. */
export const CONVERT_PICKLES = "Python: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)";

const LFS_POINTER = "version https://git-lfs.github.com/spec/";
/** A pointer is three lines; nothing of a model that lies under LFS is as short. */
const MAX_POINTER_BYTES = 1024;

/** May a file of this length be what git leaves where it did not fetch the file itself? */
export function mayBePointer(byteLength: number): boolean {
  return byteLength <= MAX_POINTER_BYTES;
}

/** Throws `DONOR_LFS_POINTER` where bytes begin like a pointer of git LFS. */
export function refusePointer(bytes: Uint8Array, path: string, file: string): void {
  const start = new TextDecoder("latin1").decode(bytes.subarray(0, LFS_POINTER.length));
  if (start !== LFS_POINTER) return;
  throw new PhysariumError(
    "DONOR_LFS_POINTER",
    `${join(path, file)}: this is a git LFS pointer, the file itself was not fetched; run git lfs pull in ${path}`,
    { path, file },
  );
}
