import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { buildProgram } from "../../dist/cli/program.js";
import { commandsUnder, pathOf } from "../../dist/cli/tree/walk.js";

const pages = ["README.md", "CHANGELOG.md", "SECURITY.md", ...readdirSync("docs").map((name) => `docs/${name}`)].filter(
  (path) => path.endsWith(".md"),
);

/** A heading's anchor as Markdown viewers make it. */
function anchorsOf(path: string): Set<string> {
  const headings = readFileSync(path, "utf8").matchAll(/^#+ (.+)$/gm);
  return new Set(
    [...headings].map(([, words]) =>
      words
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    ),
  );
}

test("links between pages lead somewhere, anchors included", () => {
  const broken: string[] = [];
  let count = 0;
  for (const page of pages) {
    const text = readFileSync(page, "utf8").replace(/```[\s\S]*?```/g, "");
    for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      count++;
      const [file, anchor] = target.split("#");
      const path = file === "" ? page : join(dirname(page), file);
      if (!existsSync(path)) broken.push(`${page}: ${target}`);
      else if (anchor !== undefined && !anchorsOf(path).has(anchor)) broken.push(`${page}: ${target}, no such heading`);
    }
  }
  expect(count).toBeGreaterThan(60);
  expect(broken).toEqual([]);
});

test("every page is reached from the README", () => {
  const linked = readFileSync("README.md", "utf8");
  for (const page of pages.filter((path) => path.startsWith("docs/"))) expect(linked, page).toContain(`](${page})`);
});

test("commands in the pages are commands, and their options theirs", async () => {
  const program = await buildProgram();
  const options = new Map(
    [...commandsUnder(program)].map((command) => [
      pathOf(command),
      new Set(["--help", ...command.options.flatMap(({ long }) => long ?? [])]),
    ]),
  );
  const groups = new Set([...commandsUnder(program)].filter(({ commands }) => commands.length > 0).map(pathOf));
  const wrong: string[] = [];
  let count = 0;
  for (const page of pages.filter((path) => path !== "CHANGELOG.md")) {
    const text = readFileSync(page, "utf8");
    const code = [...text.matchAll(/```sh\n([\s\S]*?)```|`(physarium [^`\n]+)`/g)].map(
      ([, block, inline]) => block ?? inline,
    );
    for (const line of code.flatMap((each) => each.replaceAll("\\\n", " ").split("\n"))) {
      const found = /(?:^|\s)physarium ([a-z]+)((?: [^#|&;)]*)?)/.exec(line);
      if (found === null) continue;
      const [, first, rest] = found;
      const second = rest.trim().split(/\s+/)[0];
      const path = groups.has(`physarium ${first}`) ? `physarium ${first} ${second}` : `physarium ${first}`;
      const known = options.get(path);
      if (known === undefined) {
        if (!(groups.has(`physarium ${first}`) && !/^[a-z]+$/.test(second))) wrong.push(`${page}: ${line.trim()}`);
        continue;
      }
      count++;
      for (const [option] of rest.matchAll(/(?<=\s)--[a-z][a-z0-9-]*/g)) {
        if (!known.has(option)) wrong.push(`${page}: ${path} has no ${option}`);
      }
    }
  }
  expect(count).toBeGreaterThan(60);
  expect(wrong).toEqual([]);
});
