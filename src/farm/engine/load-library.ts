import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { PhysariumError } from "../../errors.js";

/** The members of node-llama-cpp 3 that are used here. It is an optional peer, so its own types may be absent. */
export interface LlamaLibrary {
  getLlama(options: object): Promise<Llama>;
  LlamaGrammarEvaluationState: new (options: { model: LlamaModel; grammar: unknown }) => unknown;
  LlamaGrammar: { getFor(llama: Llama, type: "json"): Promise<unknown> };
}

export interface Llama {
  readonly gpu: string | false;
  loadModel(options: object): Promise<LlamaModel>;
  createGrammarForJsonSchema(schema: unknown): Promise<unknown>;
}

export interface LlamaModel {
  readonly fileInfo: { readonly metadata: { tokenizer?: { chat_template?: string } } };
  readonly tokens: {
    readonly bos: number | null;
    readonly bosString: string | null;
    readonly eosString: string | null;
    readonly shouldPrependBosToken: boolean;
  };
  readonly memoryUsage: { ram: number; vram: number };
  tokenize(text: string, special?: boolean): number[];
  detokenize(tokens: readonly number[], special?: boolean, last?: readonly number[]): string;
  isEogToken(token: number): boolean;
  createContext(options: object): Promise<LlamaContext>;
}

export interface LlamaContext {
  readonly memoryUsage: { ram: number; vram: number };
  getSequence(): LlamaSequence;
  dispose(): Promise<void>;
}

export interface LlamaSequence {
  readonly nextTokenIndex: number;
  clearHistory(): Promise<void>;
  adaptStateToTokens(tokens: readonly number[], allowShift?: boolean): Promise<void>;
  evaluate(tokens: readonly number[], options: object): AsyncGenerator<number, void, unknown>;
  evaluateWithoutGeneratingNewTokens(tokens: readonly number[]): Promise<void>;
  controlledEvaluate(input: readonly unknown[]): Promise<readonly ({ next: NextToken } | undefined)[]>;
}

export interface NextToken {
  readonly token?: number;
  readonly logits?: Map<number, number>;
  readonly totalLogitWeight?: number;
}

/** Where a copy beside the package may lie: a folder with node_modules. */
const FOLDER_VARIABLE = "LLAMA_ENGINE";

/**
 * node-llama-cpp, from where the package is installed or from the folder that LLAMA_ENGINE names. Throws `USAGE_ENGINE`
 * with the command that installs it.
 */
export async function loadLlamaLibrary(): Promise<LlamaLibrary> {
  const place = whereLibraryIs();
  try {
    if (place !== undefined) return (await import(place)) as LlamaLibrary;
    // Not spelled out, so that nobody's compiler or bundler wants it.
    const name = "node-llama-cpp";
    return (await import(name)) as LlamaLibrary;
  } catch (error) {
    throw new PhysariumError(
      "USAGE_ENGINE",
      `node-llama-cpp is not installed (${(error as Error).message.split("\n")[0]}); run npm install ` +
        "--ignore-scripts --omit=optional node-llama-cpp@3.22.1 @node-llama-cpp/linux-x64@3.22.1 (or your platform's " +
        `package), or name a folder that has it in ${FOLDER_VARIABLE}, or give organ_farm.json an engine llama-server`,
      {},
      error,
    );
  }
}

function whereLibraryIs(): string | undefined {
  const folder = process.env[FOLDER_VARIABLE];
  if (folder === undefined) return undefined;
  const entry = join(resolve(folder), "node_modules/node-llama-cpp/dist/index.js");
  return existsSync(entry) ? pathToFileURL(entry).href : undefined;
}

/** Whether it can be loaded here, without loading its native part. */
export async function hasLlamaLibrary(): Promise<boolean> {
  return loadLlamaLibrary().then(
    () => true,
    () => false,
  );
}
