import { readFile } from "node:fs/promises";
import { writeOutputFile } from "../output/output-file.js";

/** Stands in every page of ours. */
const MARK = "· Physarium</title>";

/** Write a page whole; `overwrite` replaces a page of ours, and nothing else. Throws `USAGE_OUTPUT*`, `IO_*`. */
export async function writePage(
  path: string,
  html: string,
  { overwrite, inputs }: { readonly overwrite: boolean; readonly inputs: readonly string[] },
): Promise<void> {
  const mayReplace = async (): Promise<true | string> => {
    if (!(await readFile(path, "utf8").catch(() => "")).includes(MARK))
      return "it is no page of physarium; move it away";
    return overwrite ? true : "--overwrite replaces it";
  };
  await writeOutputFile(path, { inputs, mayReplace }, (output) => output.write(new TextEncoder().encode(html), 0));
}
