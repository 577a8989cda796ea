import type { OnnxGraph } from "../../engine/onnx-graph.js";
import type { Engine, Feeds, Session } from "../../engine/session.js";

/** The open sessions of a model, by name: built once, kept until they are closed, or for one run where memory is short. */
export class SessionShelf {
  private readonly sessions = new Map<string, Promise<Session>>();

  constructor(
    private readonly engine: Engine,
    /** Whether f32 copies of the weights are kept in memory. */
    private readonly fold: boolean,
    /** Whether a session stays open behind its run: it holds its weights where they are not mapped. */
    private readonly keeps: boolean,
  ) {}

  async run(key: string, build: () => OnnxGraph, feeds: Feeds): Promise<Feeds> {
    if (!this.keeps) {
      const session = await this.engine.session(build(), this.fold);
      try {
        return await session.run(feeds);
      } finally {
        await session.close();
      }
    }
    let session = this.sessions.get(key);
    if (session === undefined) {
      session = this.engine.session(build(), this.fold);
      this.sessions.set(key, session);
    }
    return (await session).run(feeds);
  }

  async closeWhere(chosen: (key: string) => boolean): Promise<void> {
    const open = [...this.sessions].filter(([key]) => chosen(key));
    for (const [key] of open) this.sessions.delete(key);
    for (const [, session] of open) await (await session).close();
  }
}
