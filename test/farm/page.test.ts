import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { temporaryFolder } from "../temporary.js";
import { BrowserPage, CHROMIUM } from "./chromium.js";
import { admittedFolder, fakeEngine, startFarm } from "./fake-service.js";

if (CHROMIUM === undefined) console.log("skipped: the farm's page in a browser, Chromium is not installed");

/** In the page: what is wider than the window, and texts that stand out from what is behind them by less than 4.5. */
const FAULTS = `(() => {
  const faults = [];
  if (document.documentElement.scrollWidth > innerWidth) faults.push("the page is " + document.documentElement.scrollWidth + " wide");
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = channels(color).map((each) => (each /= 255) <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim() !== "");
    const box = element.getBoundingClientRect();
    if (!own || box.width === 0 || element.closest(":disabled, .skip, .loading, option")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (!(contrast >= 4.5)) faults.push(element.tagName + "." + element.className + " " + element.textContent.slice(0, 20) + " " + contrast.toFixed(2));
    const isScrolled = element.closest(".scroll, .bar, #events, select") !== null;
    if (!isScrolled && (box.left < 0 || box.right > innerWidth + 0.5)) faults.push(element.tagName + " leaves the window: " + element.textContent.slice(0, 20));
  }
  return faults;
})()`;

describe.runIf(CHROMIUM !== undefined)("the farm's page in a browser", () => {
  let farm: Awaited<ReturnType<typeof startFarm>>;
  let page: BrowserPage;

  beforeAll(async () => {
    const body = { source: "loam", context: 128, sequences: 2 };
    const folder = admittedFolder(temporaryFolder(), {
      bodies: { garden: body, orchard: body, "a-rather-long-name-of-a-body": body, meadow: { ...body, gpu_layers: 2 } },
      organs: [
        { name: "echo", body: "garden", tier: "RAM", max_tokens: 64 },
        { name: "far", body: "meadow", tier: "VRAM" },
        { name: "strict", body: "orchard", tier: "RAM", verifier: "json_strict", retries: 0 },
      ],
    });
    farm = await startFarm(folder, fakeEngine({ tokenMs: 20, bytes: 20e6, crashOn: "CRASH" }));
    for (const name of ["garden", "orchard"]) await farm.service.runtime.load(name);
    page = await BrowserPage.open(`${farm.address}/`);
    await page.until("document.querySelectorAll('#bodies tr').length === 4");
  }, 60_000);

  afterAll(async () => {
    await page?.close();
    await farm?.close();
  });

  const ask = async (text: string): Promise<void> => {
    await page.value(`document.getElementById("input").value = ${JSON.stringify(text)}`);
    await page.value('document.getElementById("input").focus()');
    await page.press("Enter", 2);
    await page.until('document.getElementById("stop").disabled');
  };
  const text = (id: string): Promise<string> => page.value(`document.getElementById("${id}").innerText`);

  test("Ctrl+Enter asks; the answer is text whatever it says, with where it is from", async () => {
    await ask("<img src=x onerror=alert(1)> <b>bold</b>");
    expect(await text("answer")).toBe("<img src=x onerror=alert(1)> <b>bold</b>");
    expect(await page.value("document.querySelectorAll('#answer *').length")).toBe(0);
    expect(await text("facts")).toMatch(/^q8_0 in RAM, ledger abababababab, nothing checks it, waited/);
    await page.until("document.getElementById('events').textContent.includes('answer  organ echo')");
  });

  test("a failed check is said; Escape stops an answer, and what was written stays", async () => {
    await page.value('document.getElementById("model").value = "strict"');
    await ask("this is no JSON");
    expect(await text("facts")).toMatch(/FAILED/);
    await page.value('document.getElementById("model").value = "echo"');
    await page.value(`document.getElementById("input").value = ${JSON.stringify("word ".repeat(60))}`);
    await page.value('document.getElementById("ask").requestSubmit()');
    await page.until('document.getElementById("answer").textContent.length > 10');
    await page.press("Escape");
    await page.until('document.getElementById("facts").textContent === "stopped"');
    expect((await text("answer")).length).toBeLessThan(290);
  });

  test("buttons pin and unload by keyboard, and the focus stays where it was", async () => {
    await page.value("document.querySelector(\"[aria-label='pin echo']\").focus()");
    await page.press(" ");
    await page.until("document.querySelector(\"[aria-label='unpin echo']\")");
    expect(farm.service.organs.get("echo")!.pinned).toBe(true);
    // The button has another word now; a keyboard stands on it all the same.
    await page.until('document.activeElement.getAttribute("aria-label") === "unpin echo"');
    await page.press("Enter");
    await page.until('document.activeElement.getAttribute("aria-label") === "pin echo"');
    await page.value("document.querySelector(\"[aria-label='unload garden']\").focus()");
    await page.press("Enter");
    await page.until('document.activeElement.getAttribute("aria-label") === "load garden"');
    await page.press("Enter");
    await page.until('document.activeElement.getAttribute("aria-label") === "unload garden"');
  });

  test("the first Tab leads past everything to the question", async () => {
    await page.value("document.activeElement.blur(), window.getSelection().removeAllRanges()");
    await page.value("document.body.tabIndex = -1, document.body.focus(), document.body.removeAttribute('tabindex')");
    await page.press("Tab");
    expect(await page.value("document.activeElement.textContent")).toBe("Skip to asking an organ");
    await page.press("Enter");
    await page.press("Tab");
    expect(await page.value("document.activeElement.id")).toBe("model");
  });

  test.each([
    [1280, "light"],
    [1280, "dark"],
    [390, "light"],
    [390, "dark"],
  ] as const)("%i px wide, %s: nothing leaves the window, every text can be read", async (width, scheme) => {
    await page.look(width, scheme);
    await page.until(`innerWidth === ${width}`);
    await page.shoot(`${width}-${scheme}`);
    expect(await page.value(FAULTS)).toEqual([]);
  });

  test("memory is drawn to scale, and buttons are in sight at any width", async () => {
    await page.look(390, "light");
    await page.until("innerWidth === 390");
    const shares = await page.value<number[]>(
      "[...document.querySelectorAll('.tier')].slice(1).map((tier) => " +
        "[...tier.querySelectorAll('.part')].reduce((sum, part) => sum + part.offsetWidth, 0) / tier.querySelector('.bar').clientWidth)",
    );
    const { used, budget } = await (await fetch(`${farm.address}/farm`)).json();
    expect(shares[0]).toBeCloseTo(used.RAM / budget.RAM, 1);
    // A few bytes of a disk: a line for each of four bodies.
    expect(shares[1]).toBeLessThan(0.05);
    const rights = await page.value<number[]>(
      "[...document.querySelectorAll('td button')].map((each) => each.getBoundingClientRect().right)",
    );
    expect(rights).toHaveLength(7);
    expect(Math.max(...rights)).toBeLessThan(390);
  });

  test("why a body does not run is said whole, within the window where there is room", async () => {
    await page.look(1280, "light");
    await page.until("innerWidth === 1280");
    const reason = await page.value<string>("document.querySelector('td .bad').innerText");
    expect(reason).toMatch(
      /^meadow: no form of it fits; gpu_layers is 2: with so many q8_0 needs .* lower it, or say "auto"$/,
    );
    const table = "document.querySelector('.scroll')";
    expect(await page.value(`${table}.scrollWidth <= ${table}.clientWidth`)).toBe(true);
  });

  test("events are for people: sizes and rounded seconds, nothing that is not known", async () => {
    const events = await text("events");
    expect(events).toMatch(/seconds \d+\.\d\d\b(?!\d)/);
    expect(events).not.toMatch(/null|\d\.\d{3}/);
    expect(events).toMatch(/ram_bytes \d+\.\d+ MiB/);
  });

  test("nothing is complained of: no script fails, the page's own policy refuses nothing", () => {
    expect(page.complaints).toEqual([]);
  });
});
