import { afterEach, expect, test, vi } from "vitest";
import { barLine, countedProgress, createProgress, tensorProgress } from "../../dist/cli/progress.js";

afterEach(() => {
  vi.restoreAllMocks();
});

test("nothing of what is over soon, then a line every few seconds, with the time left", () => {
  const lines: string[] = [];
  let now = 1000;
  vi.spyOn(performance, "now").mockImplementation(() => now);
  vi.spyOn(process.stderr, "write").mockImplementation((text) => lines.push(String(text)) > 0);
  const show = countedProgress("eval", {})!;
  for (let second = 0; second <= 12; second++) {
    now = 1000 + second * 1000;
    show(second, 20, "a\u001bb");
  }
  expect(lines).toEqual([
    "eval 10 %, about 18 s left, a\\u001bb\n",
    "eval 35 %, about 13 s left, a\\u001bb\n",
    "eval 60 %, about 8 s left, a\\u001bb\n",
  ]);
  const { onTensor } = tensorProgress("export", {});
  now += 3000;
  onTensor!("w", 1, 4);
  expect(lines.at(-1)).toBe("export 25 %, about 9 s left, tensor 2 of 4: w\n");
});

test("silent where asked for", () => {
  expect(countedProgress("eval", { quiet: true })).toBeUndefined();
  expect(tensorProgress("export", { json: true })).toEqual({});
});

test("no time left is guessed from the first moments: 3 s of work are not 17 minutes", () => {
  const lines: string[] = [];
  let now = 1000;
  vi.spyOn(performance, "now").mockImplementation(() => now);
  vi.spyOn(process.stderr, "write").mockImplementation((text) => lines.push(String(text)) > 0);
  const { update } = createProgress("pack", {});
  update(0, 1e9);
  now = 3000;
  update(1e6, 1e9);
  expect(lines).toEqual(["pack 0 %, 0.50 MB/s\n"]);
  now = 8000;
  update(7e8, 1e9);
  expect(lines.at(-1)).toBe("pack 70 %, 0.10 GB/s, about 3 s left\n");
});

test("a resumed run's pace is that of this run", () => {
  const lines: string[] = [];
  let now = 1000;
  vi.spyOn(performance, "now").mockImplementation(() => now);
  vi.spyOn(process.stderr, "write").mockImplementation((text) => lines.push(String(text)) > 0);
  const { update } = createProgress("surgery", {});
  update(9e9, 10e9);
  now = 11_000;
  update(9.5e9, 10e9);
  expect(lines).toEqual(["surgery 95 %, 0.05 GB/s, about 10 s left\n"]);
});

test("a bar's line is whole from the first frame, and never wider than the terminal", () => {
  expect(barLine("eval", 0, 100, "", "", 80)).toBe(`eval ${"░".repeat(24)} 0 %`);
  expect(barLine("eval", 50, 100, "9 tokens/s", "window 3", 80)).toBe(
    `eval ${"█".repeat(12)}${"░".repeat(12)} 50 % · 9 tokens/s · window 3`,
  );
  expect([...barLine("eval", 50, 100, "9 tokens/s", "w".repeat(200), 80)].length).toBeLessThan(80);
});
