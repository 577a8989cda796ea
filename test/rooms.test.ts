import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const SRC = fileURLToPath(new URL("../src/", import.meta.url));

/** What calibrating needs; comparing needs the same, and calibrating. */
const CALIBRATED = [
  ...["safetensors", "checkpoint", "output", "record", "flow"],
  ...["model", "engine", "methods", "probe", "matching"],
];

/**
 * Which rooms a room may import from, types included. Every room may import the leaves; only the command line imports
 * all.
 */
const MAY_IMPORT: Record<string, readonly string[]> = {
  safetensors: [],
  flow: ["safetensors"],
  threads: [],
  checkpoint: ["safetensors"],
  output: ["safetensors", "checkpoint"],
  record: ["safetensors", "checkpoint", "output", "flow"],
  model: ["safetensors", "checkpoint"],
  engine: ["safetensors", "checkpoint"],
  methods: ["safetensors", "flow", "threads", "engine"],
  probe: ["safetensors", "checkpoint", "threads", "record", "model", "engine"],
  matching: ["record", "engine", "probe"],
  calibration: CALIBRATED,
  surgery: [
    "safetensors",
    "checkpoint",
    "output",
    "record",
    "flow",
    "threads",
    "methods",
    "probe",
    "matching",
    "calibration",
  ],
  compare: [...CALIBRATED, "calibration"],
  audit: ["safetensors", "checkpoint", "output", "record", "flow", "threads", "surgery"],
  // A file that stands between the rooms, since it knows every kind of source.
  sources: ["checkpoint", "pack", "hub"],
  pack: ["safetensors", "checkpoint", "output", "record", "threads"],
  export: ["safetensors", "checkpoint", "output", "record", "threads", "model", "methods"],
  synth: ["safetensors", "checkpoint", "output", "model"],
  hub: ["safetensors", "checkpoint", "output"],
  report: ["record"],
  parts: ["safetensors", "checkpoint", "output", "record", "threads", "surgery", "report"],
  farm: ["safetensors", "checkpoint", "output", "record", "probe", "export", "audit", "pack", "sources"],
  diff: ["safetensors", "checkpoint", "record"],
};
/** Single files above the rooms. */
const LEAVES = ["errors", "limits", "wasm", "version"];
const PURE = ["safetensors", "flow"];

interface Import {
  readonly file: string;
  readonly room: string;
  readonly from: string;
  readonly typeOnly: boolean;
}

function importsOf(): Import[] {
  const found: Import[] = [];
  for (const path of readdirSync(SRC, { recursive: true, encoding: "utf8" })) {
    if (!path.endsWith(".ts")) continue;
    const file = path.replaceAll("\\", "/");
    const text = readFileSync(join(SRC, path), "utf8");
    const statements = text.matchAll(
      /^(?:import|export)\s+(type\s)?[^;]*?from\s+"([^"]+)";|^import\s+()"([^"]+)";|import\("([^"]+)"\)/gm,
    );
    for (const [, type, from, , bare, dynamic] of statements) {
      found.push({
        file,
        room: file.includes("/") ? file.split("/")[0] : file === "sources.ts" ? "sources" : "",
        from: from ?? bare ?? dynamic,
        typeOnly: type !== undefined,
      });
    }
  }
  return found;
}

/** The room a relative import leads to, or the name of a file above the rooms. */
function destination({ file, from }: Import): string {
  const parts = file.split("/").slice(0, -1);
  for (const part of from.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== ".") parts.push(part);
  }
  return parts.length > 1 ? parts[0] : parts[0].replace(/\.js$/, "");
}

const imports = importsOf();

test("imports were found at all", () => {
  expect(imports.length).toBeGreaterThan(100);
});

test("rooms import in one direction", () => {
  const offences = imports
    .filter(({ room, from }) => room in MAY_IMPORT && from.startsWith("."))
    .filter((statement) => {
      const to = destination(statement);
      return to !== statement.room && !LEAVES.includes(to) && !MAY_IMPORT[statement.room].includes(to);
    });
  expect(offences).toEqual([]);
});

test("no room stands in a circle", () => {
  const reaches = (from: string, to: string, seen = new Set<string>()): boolean =>
    MAY_IMPORT[from].some((next) => {
      if (next === to) return true;
      if (seen.has(next)) return false;
      seen.add(next);
      return reaches(next, to, seen);
    });
  expect(Object.keys(MAY_IMPORT).filter((room) => reaches(room, room))).toEqual([]);
});

test("every room is known to this test", () => {
  const rooms = new Set(imports.map(({ room }) => room).filter((room) => room !== ""));
  expect([...rooms].filter((room) => !(room in MAY_IMPORT) && room !== "cli")).toEqual([]);
});

test("only the command line imports the command line", () => {
  expect(
    imports.filter(
      (statement) => statement.room !== "cli" && statement.from.startsWith(".") && destination(statement) === "cli",
    ),
  ).toEqual([]);
});

test("pure rooms touch no node module and no library", () => {
  expect(
    imports.filter(({ room, from, typeOnly }) => PURE.includes(room) && !typeOnly && !from.startsWith(".")),
  ).toEqual([]);
});
