import { PhysariumError } from "../errors.js";
import { JsonReader } from "./json-reader.js";

export const INDEX_FILE = "model.safetensors.index.json";

/** Python's `json` writes numbers that are none as bare words, and reads them. */
const PYTHON_LITERALS = ["true", "false", "null", "NaN", "Infinity", "-Infinity"];

export interface ShardIndex {
  /** Tensor name → shard file, in the order of the file. */
  readonly weightMap: ReadonlyMap<string, string>;
  /** `metadata.total_size`: bytes of all tensors, where given. */
  readonly totalSize: number | undefined;
}

/**
 * Parse `model.safetensors.index.json`.
 *
 * Shard names must be plain file names: an index is foreign data, and one that names `../x` or `C:\x` would make us
 * read, and a copier write, outside the folder. A byte order mark is skipped: editors leave one. Throws
 * `DONOR_INDEX_*`.
 */
export function parseShardIndex(json: Uint8Array, name: string): ShardIndex {
  const marked = json[0] === 0xef && json[1] === 0xbb && json[2] === 0xbf;
  const reader = new JsonReader(marked ? json.subarray(3) : json, name, "DONOR_INDEX_JSON", PYTHON_LITERALS);
  const weightMap = new Map<string, string>();
  const seen = new Set<string>();
  // A string a shard, not a string a tensor: 10^5 tensors name some hundred files.
  const files = new Map<string, string>();
  let totalSize: number | undefined;
  reader.readObject("an object", (key) => {
    if (seen.has(key)) throw duplicate(name, key);
    seen.add(key);
    if (key === "weight_map") {
      reader.readObject("weight_map to be an object", (tensor) => {
        if (weightMap.has(tensor)) throw duplicate(name, tensor);
        const file = reader.readString(`the shard file of "${tensor}"`);
        if (!files.has(file)) {
          checkFileName(file, tensor, name);
          files.set(file, file);
        }
        weightMap.set(tensor, files.get(file) as string);
      });
    } else if (key === "metadata" && reader.atObject()) {
      reader.readObject("metadata to be an object", (member) => {
        // Some writers store it as a float ("1.5e10"); it is informative, so any number will do.
        if (member === "total_size" && !reader.atString() && !reader.skipLiteral())
          totalSize = reader.readNumber("total_size");
        else if (member !== "total_size" || reader.atString()) reader.skipValue();
      });
    } else {
      reader.skipValue();
    }
  });
  reader.end();
  if (!seen.has("weight_map")) {
    throw new PhysariumError("DONOR_INDEX_JSON", `${name}: it has no "weight_map"; this is no safetensors index`, {
      file: name,
    });
  }
  return { weightMap, totalSize };
}

function checkFileName(file: string, tensor: string, name: string): void {
  const safe =
    file.endsWith(".safetensors") && !/[/\\:\p{Cc}]/u.test(file) && !file.startsWith(".") && file.length <= 255;
  if (!safe) {
    throw new PhysariumError(
      "DONOR_INDEX_PATH",
      `${name}: tensor "${tensor}" lies in "${file}", expected the plain name of a .safetensors file in the same ` +
        "folder; do not trust this index",
      { file: name, tensor, shard: file },
    );
  }
}

function duplicate(name: string, key: string): PhysariumError {
  return new PhysariumError("DONOR_INDEX_DUPLICATE", `${name}: the key "${key}" stands twice`, { file: name, key });
}
