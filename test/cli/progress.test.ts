import { afterEach, expect, test, vi } from "vitest";
import { countedProgress, tensorProgress } from "../../dist/cli/progress.js";

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
