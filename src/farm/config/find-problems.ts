import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { Ajv } from "ajv";
import { EXPORT_FORMS } from "../plan/forms.js";
import { parseAnchors } from "./anchors.js";
import { escapePointer } from "./located-json.js";
import type { Problem } from "./organ-farm.js";
import { resolveInside } from "./paths.js";
import { templateFaults } from "./prompt-template.js";
import type { FarmFile, ReadOptions } from "./read-config.js";
import { nearestOf, schemaFaults } from "./schema.js";

/** Templates, schemas, anchors: what is read at once. */
const MAX_TEXT_BYTES = 16 << 20;

type Raw = Readonly<Record<string, unknown>>;

/** Everything wrong with a farm's file, in the order of its lines. */
export async function findProblems(file: FarmFile, options: ReadOptions): Promise<Problem[]> {
  const { json, path } = file;
  const problems: Problem[] = json.faults.map(({ message, place }) => ({ file: path, ...place, pointer: "", message }));
  const add = (pointer: string, message: string): void => {
    problems.push({ file: path, ...json.placeOf(pointer), pointer, message });
  };
  // Of a text that is no JSON nothing else can be said.
  if (json.value !== undefined) {
    for (const { pointer, message } of schemaFaults(json.value)) add(pointer, message);
    const inside = new Inside(file, options.allowAbsolutePaths ?? false, problems, add);
    inside.look();
  }
  return problems.sort(
    (a, b) => Number(a.file !== path) - Number(b.file !== path) || a.line - b.line || a.column - b.column,
  );
}

/** What no schema can say: names that refer to one another, and the files that are named. */
class Inside {
  private readonly folder: string;

  constructor(
    private readonly file: FarmFile,
    private readonly allowOutside: boolean,
    private readonly problems: Problem[],
    private readonly add: (pointer: string, message: string) => void,
  ) {
    this.folder = dirname(file.path);
  }

  look(): void {
    const root = asObject(this.file.json.value);
    const bodies = asObject(root?.bodies) ?? {};
    const organs: unknown[] = Array.isArray(root?.organs) ? root.organs : [];
    const engine = asObject(root?.engine) ?? {};
    for (const [name, given] of Object.entries(bodies)) {
      const body = asObject(given) ?? {};
      this.body(name, body);
      const wanted = organs.map(asObject).filter((organ) => organ?.body === name);
      const tiers = wanted.map((organ) => organ!.tier ?? root?.tier_default ?? "VRAM");
      this.gpuLayers(name, body, tiers.length === 0 ? [root?.tier_default ?? "VRAM"] : tiers, engine);
    }
    this.engine(engine, Object.keys(bodies).length);
    const seen = new Map<unknown, number>();
    organs.forEach((each, at) => {
      const organ = asObject(each) ?? {};
      const pointer = `/organs/${at}`;
      const before = seen.get(organ.name);
      if (typeof organ.name === "string") {
        if (before !== undefined)
          this.add(`${pointer}/name`, `the organ "${organ.name}" stands twice (organs/${before})`);
        if (Object.hasOwn(bodies, organ.name))
          this.add(`${pointer}/name`, `"${organ.name}" is the name of a body, too`);
        seen.set(organ.name, at);
      }
      this.organ(organ, pointer, Object.keys(bodies));
    });
  }

  private engine(engine: Raw, bodies: number): void {
    const { path, address, args, api_key_env: keyName } = engine;
    if (engine.kind !== "llama-server") {
      if (keyName !== undefined) this.add("/engine/api_key_env", "only a llama-server demands a key");
      return;
    }
    // In the file it would be in its history and its copies, and in the list of processes besides.
    const key = Array.isArray(args) ? args.findIndex((word) => /^--api-key(?:=|$)/.test(String(word))) : -1;
    if (key >= 0) {
      this.add(
        `/engine/args/${key}`,
        "a key does not belong in the file; name its environment variable as api_key_env",
      );
    }
    if ((path === undefined) === (address === undefined)) {
      this.add("/engine", "llama-server needs a path or an address, and not both");
    }
    if (address !== undefined && bodies > 1) {
      this.add("/engine/address", `one server serves one body, the farm has ${bodies}; give a path instead`);
    }
    if (typeof path === "string" && /[/\\]/.test(path)) this.resolve("/engine/path", path);
  }

  private body(name: string, body: Raw): void {
    const pointer = `/bodies/${escapePointer(name)}`;
    const folder = this.resolve(`${pointer}/source`, body.source);
    if (folder !== undefined) {
      if (!isFolder(folder)) this.add(`${pointer}/source`, `there is no folder ${body.source}`);
      else if (!existsSync(join(folder, "config.json"))) {
        this.add(`${pointer}/source`, `${body.source} is no model folder: it has no config.json`);
      } else this.context(`${pointer}/context`, body.context, folder);
    }
    const donor = this.resolve(`${pointer}/donor`, body.donor);
    if (donor !== undefined && !isFolder(donor)) this.add(`${pointer}/donor`, `there is no folder ${body.donor}`);
    this.text(`${pointer}/eval_text`, body.eval_text);
    if (!Array.isArray(body.forms)) return;
    body.forms.forEach((form, at) => {
      if (typeof form !== "string" || EXPORT_FORMS.includes(form)) return;
      const nearest = nearestOf(form, EXPORT_FORMS);
      const hint = nearest === undefined ? "" : `did you mean "${nearest}"? `;
      this.add(
        `${pointer}/forms/${at}`,
        `"${form}" is no GGUF type that physarium exports; ${hint}known are ${EXPORT_FORMS.join(", ")}`,
      );
    });
  }

  /** Layers on a GPU that the body is kept from, or that the model does not have. */
  private gpuLayers(name: string, body: Raw, tiers: readonly unknown[], engine: Raw): void {
    const { gpu_layers: layers, source } = body;
    if (typeof layers !== "number") return;
    const add = (words: string): void => this.add(`/bodies/${escapePointer(name)}/gpu_layers`, words);
    if (engine.address !== undefined) {
      add(`gpu_layers is ${layers}, but the server runs elsewhere and was told its own; leave gpu_layers out`);
    } else if (layers > 0 && !tiers.includes("VRAM")) {
      const wanted = [...new Set(tiers)].join(" and ");
      add(`gpu_layers is ${layers}, but the body is wanted in ${wanted}; give an organ of it the tier VRAM, or say 0`);
    }
    const folder = typeof source === "string" ? resolveInside(this.folder, source, this.allowOutside) : undefined;
    if (folder === undefined || !("path" in folder)) return;
    const config = configOf(folder.path);
    const most = config?.num_hidden_layers ?? asObject(config?.text_config)?.num_hidden_layers;
    if (typeof most === "number" && layers > most + 1) {
      add(`gpu_layers is ${layers}, the model has ${most} layers and a head: ${most + 1} at most, or "auto"`);
    }
  }

  /** A context longer than the model's positions gives nonsense beyond them. */
  private context(pointer: string, context: unknown, folder: string): void {
    if (typeof context !== "number") return;
    const most = configOf(folder)?.max_position_embeddings;
    if (typeof most === "number" && context > most) {
      this.add(pointer, `context is ${context}, the model has ${most} positions (max_position_embeddings)`);
    }
  }

  private organ(organ: Raw, pointer: string, bodies: readonly string[]): void {
    if (typeof organ.body === "string" && !bodies.includes(organ.body)) {
      const nearest = nearestOf(organ.body, bodies);
      const hint = nearest === undefined ? `bodies are ${bodies.join(", ") || "none"}` : `did you mean "${nearest}"?`;
      this.add(`${pointer}/body`, `there is no body "${organ.body}"; ${hint}`);
    }
    const template = this.text(`${pointer}/prompt_template`, organ.prompt_template);
    if (template !== undefined) for (const fault of templateFaults(template.text)) this.elsewhere(template.path, fault);
    const anchors = this.text(`${pointer}/anchors`, organ.anchors);
    if (anchors !== undefined)
      for (const fault of parseAnchors(anchors.text).faults) this.elsewhere(anchors.path, fault);
    this.text(`${pointer}/source_text`, organ.source_text);
    this.schema(organ, pointer);
    const isCommand = organ.verifier === "command" || organ.verifier === "hard_verifier";
    if (isCommand && organ.command === undefined) this.add(pointer, `${organ.verifier} needs "command"`);
    if (!isCommand && organ.command !== undefined) {
      this.add(`${pointer}/command`, '"command" is read by the verifier "command" alone');
    }
    const program = Array.isArray(organ.command) ? organ.command[0] : undefined;
    if (typeof program === "string" && /[/\\]/.test(program)) {
      const path = this.resolve(`${pointer}/command/0`, program);
      if (path !== undefined && !existsSync(path)) this.add(`${pointer}/command/0`, `there is no file ${program}`);
    }
  }

  private schema(organ: Raw, pointer: string): void {
    if (organ.verifier === "json_schema" && organ.schema === undefined) this.add(pointer, 'json_schema needs "schema"');
    const found = this.text(`${pointer}/schema`, organ.schema);
    if (found === undefined) return;
    try {
      new Ajv({ strict: false, validateFormats: false }).compile(JSON.parse(found.text));
    } catch (error) {
      this.elsewhere(found.path, { line: 1, message: `this is no JSON schema: ${(error as Error).message}` });
    }
  }

  /** Something wrong in a file that this one names. */
  private elsewhere(path: string, { line, message }: { line: number; message: string }): void {
    this.problems.push({ file: path, line, column: 1, pointer: "", message });
  }

  private resolve(pointer: string, given: unknown): string | undefined {
    if (typeof given !== "string" || given === "") return undefined;
    const resolved = resolveInside(this.folder, given, this.allowOutside);
    if ("path" in resolved) return resolved.path;
    this.add(pointer, resolved.refused);
    return undefined;
  }

  /** The text of a file that is named, after saying what is wrong with the name. */
  private text(pointer: string, given: unknown): { path: string; text: string } | undefined {
    const path = this.resolve(pointer, given);
    if (path === undefined) return undefined;
    try {
      const stat = statSync(path);
      if (!stat.isFile()) throw new Error("it is no file");
      if (stat.size > MAX_TEXT_BYTES) throw new Error(`it has ${stat.size} bytes, at most ${MAX_TEXT_BYTES} are read`);
      return { path, text: new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(path)) };
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      this.add(
        pointer,
        code === "ENOENT" ? `there is no file ${given}` : `${given} cannot be read as text: ${message}`,
      );
      return undefined;
    }
  }
}

function asObject(value: unknown): Raw | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Raw) : undefined;
}

/** A model's configuration, as far as it can be read: whoever opens the model says what is wrong with it. */
function configOf(folder: string): Raw | undefined {
  try {
    return asObject(JSON.parse(readFileSync(join(folder, "config.json"), "utf8")));
  } catch {
    return undefined;
  }
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}
