import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type FileLayer, nodeFiles } from "../../dist/checkpoint/file-layer.js";
import { ShardFlusher } from "../../dist/surgery/shard-flusher.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const paths = ["a", "b", "c"].map((name) => join(folder, name));
for (const path of paths) writeFileSync(path, path);

/** Notes the files that are flushed; the first flush waits for `free`, and `fail` fails. */
function watched(free: Promise<void>, fail?: string): { files: FileLayer; flushed: string[] } {
  const flushed: string[] = [];
  const open: FileLayer["open"] = async (path, flags) => {
    const file = await nodeFiles.open(path, flags);
    return new Proxy(file, {
      get(target, name) {
        if (name !== "sync") {
          const value = Reflect.get(target, name);
          return typeof value === "function" ? value.bind(target) : value;
        }
        return async () => {
          flushed.push(path);
          if (flushed.length === 1) await free;
          if (path === fail) throw Object.assign(new Error("EIO"), { code: "EIO" });
        };
      },
    });
  };
  return { files: { ...nodeFiles, open }, flushed };
}

test("a stopped run waits for the flush under way alone, not for those behind it", async () => {
  let free = () => {};
  const { files, flushed } = watched(new Promise((resolve) => (free = resolve)));
  const flusher = new ShardFlusher(files);
  for (const path of paths) flusher.begin(path);
  while (flushed.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  const settled = flusher.settle();
  free();
  await settled;
  expect(flushed).toEqual([paths[0]]);
});

test("at the end every file is flushed, those that were not begun and those that were", async () => {
  const { files, flushed } = watched(Promise.resolve());
  const flusher = new ShardFlusher(files);
  flusher.begin(paths[0]);
  await flusher.finish(paths, () => {});
  expect(flushed.slice(-3)).toEqual(paths);
});

test("a flush that failed on the way is told at the end, although a second one would succeed", async () => {
  const { files } = watched(Promise.resolve(), paths[1]);
  const flusher = new ShardFlusher(files);
  for (const path of paths) flusher.begin(path);
  await new Promise((resolve) => setTimeout(resolve, 50));
  await expect(flusher.finish([paths[0]], () => {})).rejects.toMatchObject({ code: "IO_FAILED" });
});
