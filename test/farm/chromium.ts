import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { temporaryFolder } from "../temporary.js";

export const CHROMIUM = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);

type Message = { id?: number; method?: string; params?: never; result?: never; error?: { message: string } };

/** A page of a real browser, by the DevTools protocol over a pipe: what these tests need of it, without a dependency. */
export class BrowserPage {
  private readonly waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  private nextId = 1;
  private session: string | undefined;
  /** Errors and warnings of the page's console, uncaught ones and refusals of its policy among them. */
  readonly complaints: string[] = [];

  private constructor(private readonly browser: ChildProcess) {
    let rest = "";
    (browser.stdio[4] as Readable).setEncoding("utf8").on("data", (text: string) => {
      const parts = `${rest}${text}`.split("\0");
      rest = parts.pop()!;
      for (const part of parts) this.hear(JSON.parse(part));
    });
    browser.once("exit", (code) => {
      for (const { reject } of this.waiting.values()) reject(new Error(`the browser ended with ${code}`));
    });
  }

  static async open(address: string): Promise<BrowserPage> {
    const profile = temporaryFolder();
    const flags = [
      "--headless=new",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-background-networking",
      "--no-first-run",
    ];
    const browser = spawn(
      CHROMIUM!,
      [...flags, `--user-data-dir=${profile}`, "--remote-debugging-pipe", "about:blank"],
      {
        stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
        env: { ...process.env, HOME: profile },
      },
    );
    const page = new BrowserPage(browser);
    const { targetId } = await page.send<{ targetId: string }>("Target.createTarget", { url: "about:blank" });
    const attached = await page.send<{ sessionId: string }>("Target.attachToTarget", { targetId, flatten: true });
    page.session = attached.sessionId;
    for (const domain of ["Page", "Runtime", "Log"]) await page.send(`${domain}.enable`);
    await page.send("Page.navigate", { url: address });
    await page.until("document.readyState === 'complete'");
    return page;
  }

  /** How the page is looked at: width in CSS pixels, light or dark. */
  async look(width: number, scheme: "light" | "dark"): Promise<void> {
    const screen = { width, height: 900, deviceScaleFactor: 1, mobile: width < 600 };
    await this.send("Emulation.setDeviceMetricsOverride", screen);
    await this.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  }

  async value<T>(expression: string): Promise<T> {
    const asked = { expression, returnByValue: true, awaitPromise: true };
    const { result, exceptionDetails: fault } = await this.send<{
      result: { value: T };
      exceptionDetails?: { text: string; exception?: { description: string } };
    }>("Runtime.evaluate", asked);
    if (fault !== undefined) throw new Error(fault.exception?.description ?? fault.text);
    return result.value;
  }

  /** Wait until an expression of the page holds. */
  async until(expression: string): Promise<void> {
    const end = Date.now() + 15_000;
    while (!(await this.value<boolean>(`Boolean(${expression})`))) {
      if (Date.now() > end) throw new Error(`in 15 s it did not come true: ${expression}`);
      await new Promise((wake) => setTimeout(wake, 30));
    }
  }

  /** A key as a person presses it; modifiers: 2 is Ctrl, 8 Shift. */
  async press(key: string, modifiers = 0): Promise<void> {
    const known: Record<string, number> = { Tab: 9, Enter: 13, Escape: 27, " ": 32 };
    const text = key === "Enter" ? "\r" : key.length === 1 ? key : undefined;
    const event = { key, code: key, windowsVirtualKeyCode: known[key], modifiers, text };
    await this.send("Input.dispatchKeyEvent", { type: text === undefined ? "rawKeyDown" : "keyDown", ...event });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  }

  /** A picture of the whole page into the folder that PAGE_SHOTS names, for people to look at. */
  async shoot(name: string): Promise<void> {
    const folder = process.env.PAGE_SHOTS;
    if (folder === undefined) return;
    mkdirSync(folder, { recursive: true });
    const { data } = await this.send<{ data: string }>("Page.captureScreenshot", { captureBeyondViewport: true });
    writeFileSync(join(folder, `${name}.png`), Buffer.from(data, "base64"));
  }

  async close(): Promise<void> {
    const ended = new Promise((resolve) => this.browser.once("exit", resolve));
    this.browser.kill("SIGKILL");
    await ended;
  }

  private send<T>(method: string, params: object = {}): Promise<T> {
    const id = this.nextId++;
    const session = this.session === undefined ? {} : { sessionId: this.session };
    (this.browser.stdio[3] as Writable).write(`${JSON.stringify({ id, method, params, ...session })}\0`);
    return new Promise<never>((resolve, reject) => this.waiting.set(id, { resolve, reject })) as Promise<T>;
  }

  private hear({ id, method, params, result, error }: Message): void {
    if (id !== undefined) {
      const waiting = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) waiting?.resolve(result as never);
      else waiting?.reject(new Error(error.message));
    } else if (method === "Runtime.exceptionThrown" || method === "Log.entryAdded") {
      this.complaints.push(JSON.stringify(params));
    }
  }
}
