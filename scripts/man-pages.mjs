// man/*.1 for the package, made of the command tree of the built command line.
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { buildProgram } from "../dist/cli/program.js";
import { manPages } from "../dist/cli/tree/man-page.js";
import { PHYSARIUM_VERSION } from "../dist/version.js";

const folder = new URL("../man/", import.meta.url);
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder);
for (const [name, page] of manPages(await buildProgram(), PHYSARIUM_VERSION))
  writeFileSync(new URL(name, folder), page);
