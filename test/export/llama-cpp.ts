/** What bench/llama-engine.mjs gives; it is plain JavaScript, since it must run without a build. */
export interface OpenedModel {
  tokenize(text: string): number[];
  nll(ids: readonly number[]): Promise<number[]>;
  greedy(ids: readonly number[], count: number): Promise<number[]>;
  close(): Promise<void>;
}

const engineFile: string = new URL("../../bench/llama-engine.mjs", import.meta.url).href;

export const { openLlama, openModel } = (await import(engineFile)) as {
  /** The engine, or undefined where it is not installed. */
  openLlama(): Promise<object | undefined>;
  openModel(llama: object, path: string, contextSize: number): Promise<OpenedModel>;
};
