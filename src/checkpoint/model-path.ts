import { basename, join } from "node:path";
import { PhysariumError } from "../errors.js";
import { attempt, type FileLayer, nodeFiles, readSmallFile } from "./file-layer.js";
import { CONVERT_PICKLES, ggufRefusal } from "./layout.js";

/**
 * The folder that a path given as a model means: itself, or the snapshot in the root of a hub cache
 * (`models--org--name`).
 *
 * Throws `DONOR_*` for what is no folder, saying what was given instead: a file of a model, a GGUF file, a name on the
 * Hub.
 */
export async function modelFolder(path: string, files: FileLayer = nodeFiles): Promise<string> {
  const stat = await statOf(path, files);
  if (stat === undefined) {
    refuseHubName(path);
    return path;
  }
  if (stat.isFile()) refuseFile(path);
  if (!stat.isDirectory()) return path;
  await refuseWholeCache(path, files);
  return (await snapshotOf(path, files)) ?? path;
}

/** The cache itself, or the folder it lies in, in place of one of the models in it. */
async function refuseWholeCache(path: string, files: FileLayer): Promise<void> {
  if ((await statOf(join(path, "config.json"), files)) !== undefined) return;
  const named = (names: string[]) => names.filter((name) => /^models--.+--.+/.test(name)).sort();
  const list = (folder: string) => attempt("listing", folder, () => files.readdir(folder));
  const here = await list(path);
  let models = named(here).map((name) => join(path, name));
  if (models.length === 0 && here.includes("hub")) {
    const inner = join(path, "hub");
    if ((await statOf(inner, files))?.isDirectory()) models = named(await list(inner)).map((name) => join(inner, name));
  }
  if (models.length === 0) return;
  const [, owner, name] = /models--(.+?)--(.+)$/.exec(models[0])!;
  throw new PhysariumError(
    "DONOR_CACHE",
    `${path}: this is a hub cache with ${models.length} model${models.length === 1 ? "" : "s"} in it; give one of ` +
      `them, as ${models[0]} or hf://${owner}/${name}`,
    { path, models },
  );
}

/** A hub cache keeps `snapshots/<commit>/` under the model's root, which holds no files itself. */
async function snapshotOf(path: string, files: FileLayer): Promise<string | undefined> {
  const holds = async (name: string) => (await statOf(join(path, name), files)) !== undefined;
  if (!(await holds("snapshots")) || (await holds("config.json"))) return undefined;
  if (!basename(path).startsWith("models--") && !(await holds("refs")) && !(await holds("blobs"))) return undefined;
  const folder = join(path, "snapshots");
  const snapshots = (await attempt("listing", folder, () => files.readdir(folder)))
    .filter((name) => !name.startsWith("."))
    .sort();
  if (snapshots.length === 1) return join(folder, snapshots[0]);
  const main = await readSmallFile(join(path, "refs", "main"), files, 1000).then(
    (bytes) => new TextDecoder().decode(bytes).trim(),
    () => undefined,
  );
  const named = snapshots.map((name) => (name === main ? `${name} (main)` : name));
  const likely = main !== undefined && snapshots.includes(main) ? main : snapshots[0];
  throw new PhysariumError(
    "DONOR_SNAPSHOTS",
    `${path}: this is the root of a hub cache with ${snapshots.length} ` +
      `snapshots${named.length === 0 ? "" : ` (${named.slice(0, 5).join(", ")}${named.length > 5 ? ", …" : ""})`}; ` +
      (named.length === 0 ? "download the model" : `give one of them, as ${join(folder, likely)}`),
    { path, snapshots },
  );
}

/**
 * `undefined` where nothing stands, or a link leads nowhere: opening the model says which. Throws `IO_*` for what the
 * system refuses.
 */
function statOf(path: string, files: FileLayer) {
  return attempt("examining", path, () =>
    files.stat(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT" || error.code === "ELOOP" || error.code === "ENOTDIR") return undefined;
      throw error;
    }),
  );
}

function refuseFile(path: string): void {
  if (/\.gguf$/i.test(path)) throw ggufRefusal(path, `${path}: this is a GGUF file, no model folder`);
  const isPickle = /\.(?:bin|pth?|ckpt)$/i.test(path);
  if (isPickle || /\.safetensors(?:\.index\.json)?$/i.test(path)) {
    throw new PhysariumError(
      "DONOR_NOT_A_FOLDER",
      `${path}: this is one file of a model; give the folder it lies in, with its config.json` +
        (isPickle ? `; PyTorch's own files must become safetensors before: ${CONVERT_PICKLES}` : ""),
      { path },
    );
  }
}

/** `org/name` where there is no such folder: the Hub's way to name a model. */
function refuseHubName(path: string): void {
  const match = /^(?:hf:\/\/)?(\w[\w.-]*)\/(\w[\w.-]*)$/.exec(path);
  if (match === null) return;
  const [, owner, name] = match;
  const id = `${owner}/${name}`;
  throw new PhysariumError(
    "DONOR_NOT_FOUND",
    `${path}: there is no such folder; did you mean hf://${id}, the model of that name on the Hub?`,
    { path },
  );
}
