import fc from "fast-check";
import { expect, test } from "vitest";
import { isPhysariumError } from "../../dist/errors.js";
import { systemClock } from "../../dist/farm/runtime/clock.js";
import type { FarmEvent } from "../../dist/farm/runtime/events.js";
import { FarmRuntime } from "../../dist/farm/runtime/farm-runtime.js";
import { facts, order, placement, settled, VirtualClock, WatchedEngine } from "./virtual-farm.js";

function farm(budget: number, bodies: Parameters<typeof facts>[], residenceMs = 100) {
  const clock = new VirtualClock();
  const engine = new WatchedEngine(clock);
  const events: FarmEvent[] = [];
  const runtime = new FarmRuntime(
    bodies.map((each) => facts(...each)),
    { budget: { VRAM: 0, RAM: budget }, residenceMs, engine, clock, onEvent: (event) => events.push(event) },
  );
  for (const [name, placements] of bodies) {
    for (const { form, need } of placements) {
      engine.plans.set(`${name}/${form}`, { bytes: need.RAM, loadMs: 50, answerMs: 10 });
    }
  }
  return { clock, engine, events, runtime };
}

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "served",
    (error) => (isPhysariumError(error) ? error.code : `unknown ${error}`),
  );

test("loads of one body coalesce, and it answers as many at a time as it has sequences", async () => {
  const { clock, engine, runtime } = farm(100, [["a", [placement("q8_0", 60)]]]);
  const answers = [1, 2, 3, 4, 5].map(() => runtime.submit(order("a")));
  await clock.advance(200);
  expect((await Promise.all(answers)).map(({ text }) => text)).toEqual(["a", "a", "a", "a", "a"]);
  expect(engine.starts).toBe(1);
  expect(engine.broken).toEqual([]);
});

test("a body gives way when it is idle and its time of residence is over, and never before", async () => {
  const { clock, engine, events, runtime } = farm(100, [
    ["a", [placement("q8_0", 60)]],
    ["b", [placement("q8_0", 60)]],
  ]);
  const first = runtime.submit(order("a"));
  await clock.advance(70);
  await first;
  const second = runtime.submit(order("b"));
  await clock.advance(60);
  // Loaded at 50, so it resides until 150.
  expect([...engine.live].map(({ spec }) => spec.body)).toEqual(["a"]);
  await clock.advance(100);
  expect((await second).text).toBe("b");
  expect(events.filter(({ event }) => event === "evicted")).toHaveLength(1);
});

test("no-swap is refused where somebody had to give way, and served where nobody has to", async () => {
  const { clock, runtime } = farm(100, [
    ["a", [placement("q8_0", 60)]],
    ["b", [placement("q8_0", 60)]],
  ]);
  const first = runtime.submit(order("a", { noSwap: true }));
  await clock.advance(70);
  expect((await first).text).toBe("a");
  expect(await codeOf(runtime.submit(order("b", { noSwap: true })))).toBe("FARM_WOULD_SWAP");
});

test("a pinned body never gives way; what then fits nowhere is told at once", async () => {
  const { clock, runtime } = farm(100, [
    ["a", [placement("q8_0", 60)]],
    ["b", [placement("q8_0", 60)]],
  ]);
  runtime.pin("a", true);
  const first = runtime.submit(order("a"));
  await clock.advance(500);
  await first;
  expect(await codeOf(runtime.submit(order("b")))).toBe("FARM_NO_ROOM");
  runtime.pin("a", false);
  const later = runtime.submit(order("b"));
  await clock.advance(500);
  expect((await later).text).toBe("b");
});

test("a full queue answers with the time after which to come again", async () => {
  const { clock, runtime } = farm(100, [["a", [placement("q8_0", 60)], { queueLimit: 2, sequences: 1 }]]);
  const waiting = [runtime.submit(order("a")), runtime.submit(order("a"))];
  const error = await runtime.submit(order("a")).catch((reason) => reason);
  expect(error).toMatchObject({ code: "FARM_QUEUE_FULL", details: { retryAfter: expect.any(Number) } });
  expect(error.details.retryAfter).toBeGreaterThan(0);
  await clock.advance(500);
  await Promise.all(waiting);
});

test("higher priority goes first, and waiting makes up for it", async () => {
  const { clock, engine, runtime } = farm(100, [["a", [placement("q8_0", 60)], { sequences: 1, queueLimit: 5000 }]]);
  engine.plans.set("a/q8_0", { bytes: 60, loadMs: 50, answerMs: 100 });
  const done: string[] = [];
  const ask = (name: string, priority: number) =>
    runtime.submit(order("a", { organ: name, priority })).then(() => done.push(name));
  void ask("first", 1);
  await clock.advance(60);
  void ask("low", 1);
  void ask("high", 5);
  await clock.advance(1000);
  expect(done).toEqual(["first", "high", "low"]);
  done.length = 0;
  void ask("busy", 9);
  void ask("old", 1);
  const crowd = Array.from({ length: 900 }, (_, at) => at);
  // Requests of a higher priority keep coming, as fast as they are answered.
  for (const at of crowd) {
    void ask(`young ${at}`, 5);
    await clock.advance(100);
    if (done.includes("old")) break;
  }
  // Four levels are made up for in 40 seconds.
  expect(done.indexOf("old")).toBeGreaterThan(300);
  expect(done.indexOf("old")).toBeLessThan(500);
});

test("a deadline that passes and a client that leaves end that answer and no other", async () => {
  const { clock, engine, runtime } = farm(100, [["a", [placement("q8_0", 60)]]]);
  engine.plans.set("a/q8_0", { bytes: 60, loadMs: 10, answerMs: 100 });
  const leaver = new AbortController();
  const late = codeOf(runtime.submit(order("a", { deadlineMs: 60 })));
  const stays = runtime.submit(order("a"));
  const leaves = codeOf(runtime.submit(order("a", { signal: leaver.signal })));
  const gone = codeOf(runtime.submit(order("a", { signal: leaver.signal })));
  await clock.advance(80);
  leaver.abort();
  await clock.advance(400);
  expect([await late, await leaves, await gone]).toEqual(["FARM_DEADLINE", "STOPPED", "STOPPED"]);
  expect((await stays).text).toBe("a");
  expect(engine.broken).toEqual([]);
});

test("a crash: who got nothing yet is served by the next process, who got something is told", async () => {
  const { clock, engine, runtime } = farm(100, [["a", [placement("q8_0", 60)], { sequences: 2 }]]);
  engine.plans.set("a/q8_0", { bytes: 60, loadMs: 10, answerMs: 100 });
  const half = codeOf(runtime.submit(order("a")));
  await clock.advance(50);
  const fresh = runtime.submit(order("a"));
  await clock.advance(20);
  engine.crash("a");
  await clock.advance(500);
  expect(await half).toBe("FARM_UNAVAILABLE");
  expect((await fresh).text).toBe("a");
  expect(engine.starts).toBe(2);
});

test("a body that ends again and again is left alone for a while, and says so", async () => {
  const { clock, engine, runtime } = farm(100, [["a", [placement("q8_0", 60)]]]);
  for (let times = 0; times < 3; times++) {
    const answer = runtime.submit(order("a")).catch(() => {});
    await clock.advance(55);
    engine.crash("a");
    await clock.advance(200);
    await answer;
  }
  expect(await codeOf(runtime.submit(order("a")))).toBe("FARM_UNAVAILABLE");
  await clock.advance(20_000);
  const later = runtime.submit(order("a"));
  await clock.advance(200);
  expect((await later).text).toBe("a");
});

test("a form that cannot be loaded is passed over for the next", async () => {
  const { clock, engine, events, runtime } = farm(100, [["a", [placement("q8_0", 60), placement("q4_0", 30)]]]);
  engine.plans.set("a/q8_0", { bytes: 60, loadMs: 10, answerMs: 10, failsToLoad: true });
  const answer = runtime.submit(order("a"));
  await clock.advance(200);
  expect((await answer).placement.form).toBe("q4_0");
  expect(events.map(({ event }) => event)).toContain("load_failed");
});

test("a load that was asked for goes on to the next form, and is told when the farm ends or the body is unloaded", async () => {
  const { clock, engine, runtime } = farm(100, [
    ["a", [placement("q8_0", 60), placement("q4_0", 30)]],
    ["b", [placement("q8_0", 90)]],
  ]);
  engine.plans.set("a/q8_0", { bytes: 60, loadMs: 10, answerMs: 10, failsToLoad: true });
  const loads = [codeOf(runtime.load("a"))];
  await clock.advance(70);
  expect(runtime.homes.get("a")!.placement?.form).toBe("q4_0");
  // Not before the time of residence of the other is over.
  loads.push(codeOf(runtime.load("b")));
  await clock.advance(10);
  await runtime.unload("b");
  loads.push(codeOf(runtime.load("b")));
  engine.closing = true;
  await runtime.close();
  loads.push(codeOf(runtime.load("a")));
  expect(await Promise.all(loads)).toEqual(["served", "FARM_BUSY", "FARM_UNAVAILABLE", "FARM_UNAVAILABLE"]);
});

test("another admission while a body is being loaded: what is served is the new one", async () => {
  const { clock, engine, runtime } = farm(100, [["a", [placement("q8_0", 60)]]]);
  engine.plans.set("a/q4_0", { bytes: 30, loadMs: 10, answerMs: 10 });
  const loaded = runtime.load("a");
  const answer = runtime.submit(order("a"));
  await clock.advance(20);
  runtime.replaceFacts(facts("a", [placement("q4_0", 30)], { generation: 2 }));
  await clock.advance(300);
  await loaded;
  expect(await answer).toMatchObject({ generation: 2, placement: { form: "q4_0" } });
});

test("a time longer than timers count does not ring at once", async () => {
  let rang = false;
  const callOff = systemClock.after(3e9, () => {
    rang = true;
  });
  await new Promise((wake) => setTimeout(wake, 20));
  callOff();
  expect(rang).toBe(false);
});

test("a body larger than was thought is ended before it serves; the next form takes its place", async () => {
  const { clock, engine, events, runtime } = farm(100, [["a", [placement("q8_0", 60), placement("q4_0", 30)]]]);
  engine.plans.set("a/q8_0", { bytes: 130, loadMs: 10, answerMs: 10 });
  const answer = runtime.submit(order("a"));
  await clock.advance(300);
  expect((await answer).placement.form).toBe("q4_0");
  expect(events.map(({ event }) => event)).toContain("wrong_estimate");
  expect(runtime.used.RAM).toBe(30);
});

test("the whole is worth more than its parts: of two idle bodies the one of least score goes", async () => {
  const clock = new VirtualClock();
  const engine = new WatchedEngine(clock);
  const names = ["a", "b", "c"];
  const worth: Record<string, number> = { a: 0.9, b: 0.1, c: 0.5 };
  const runtime = new FarmRuntime(
    names.map((name) => facts(name, [placement("q8_0", 40)])),
    { budget: { VRAM: 0, RAM: 100 }, residenceMs: 10, engine, clock, scoreOf: (body) => worth[body] },
  );
  for (const name of names) engine.plans.set(`${name}/q8_0`, { bytes: 40, loadMs: 5, answerMs: 5 });
  for (const name of names) {
    const answer = runtime.submit(order(name));
    await clock.advance(100);
    await answer;
  }
  expect([...engine.live].map(({ spec }) => spec.body).sort()).toEqual(["a", "c"]);
});

test("an idle body is given back after its time to live", async () => {
  const { clock, engine, runtime } = farm(100, [["a", [placement("q8_0", 60)], { ttlMs: 5_000 }]]);
  const answer = runtime.submit(order("a"));
  await clock.advance(4_000);
  await answer;
  expect(engine.live.size).toBe(1);
  await clock.advance(4_000);
  expect(engine.live.size).toBe(0);
});

test("10,000 random events: nobody busy is evicted, measured memory stays within the budget, every request is answered once", async () => {
  const body = fc.constantFrom("a", "b", "c", "d");
  const event = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant("ask" as const),
        body,
        priority: fc.integer({ min: 0, max: 5 }),
        deadline: fc.option(fc.integer({ min: 1, max: 400 }), { nil: undefined }),
        noSwap: fc.boolean(),
      }),
    },
    { weight: 6, arbitrary: fc.record({ kind: fc.constant("wait" as const), ms: fc.integer({ min: 0, max: 120 }) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("leave" as const), which: fc.nat(1_000) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("crash" as const), body }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("pin" as const), body, pinned: fc.boolean() }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("unload" as const), body }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("load" as const), body }) },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("change" as const),
        body,
        bytes: fc.integer({ min: 5, max: 120 }),
        loadMs: fc.integer({ min: 0, max: 300 }),
        fails: fc.boolean(),
      }),
    },
  );
  const BUDGET = 100;
  let seen = 0;
  const counts: Record<string, number> = {};
  await fc.assert(
    fc.asyncProperty(fc.array(event, { minLength: 500, maxLength: 500 }), async (events) => {
      const {
        clock,
        engine,
        runtime,
        events: told,
      } = farm(
        BUDGET,
        [
          ["a", [placement("q8_0", 60), placement("q4_0", 30)], { queueLimit: 4 }],
          ["b", [placement("q8_0", 50), placement("q4_0", 25)], { sequences: 1, ttlMs: 3_000 }],
          ["c", [placement("q8_0", 40)], { sequences: 3 }],
          ["d", [placement("q8_0", 90)]],
        ],
        80,
      );
      const asked: { leaver: AbortController; outcomes: string[] }[] = [];
      const loads: string[] = [];
      let loadsAsked = 0;
      const check = (): void => {
        expect(engine.broken).toEqual([]);
        const ready = [...runtime.homes.values()].filter(({ status }) => status === "ready");
        // By what the processes really take, not by what the runtime believes.
        const bytes = ready.reduce(
          (sum, home) =>
            sum +
            [...engine.live]
              .filter(({ spec }) => spec.body === home.name)
              .reduce((all, { plan }) => all + plan.bytes, 0),
          0,
        );
        expect(bytes).toBeLessThanOrEqual(BUDGET);
      };
      for (const each of events) {
        seen++;
        if (each.kind === "ask") {
          const leaver = new AbortController();
          const outcomes: string[] = [];
          const { priority, noSwap } = each;
          const promise = runtime.submit(
            order(each.body, { priority, noSwap, deadlineMs: each.deadline, signal: leaver.signal }),
          );
          promise.then(
            ({ text }) => outcomes.push(text === each.body ? "served" : "wrong"),
            (error) => outcomes.push(error.code),
          );
          asked.push({ leaver, outcomes });
        } else if (each.kind === "wait") await clock.advance(each.ms);
        else if (each.kind === "leave") asked[each.which % Math.max(1, asked.length)]?.leaver.abort();
        else if (each.kind === "crash") engine.crash(each.body);
        else if (each.kind === "pin") runtime.pin(each.body, each.pinned);
        else if (each.kind === "unload") void runtime.unload(each.body).catch(() => {});
        else if (each.kind === "load") {
          loadsAsked++;
          void codeOf(runtime.load(each.body)).then((code) => loads.push(code));
        } else {
          for (const form of ["q8_0", "q4_0"]) {
            engine.plans.set(`${each.body}/${form}`, {
              bytes: each.bytes,
              loadMs: each.loadMs,
              answerMs: 40,
              failsToLoad: each.fails && form === "q8_0",
            });
          }
        }
        await settled();
        check();
      }
      for (const name of runtime.homes.keys()) runtime.pin(name, false);
      await clock.advance(120_000);
      check();
      for (const { outcomes } of asked) {
        expect(outcomes).toHaveLength(1);
        counts[outcomes[0]] = (counts[outcomes[0]] ?? 0) + 1;
      }
      expect(loads).toHaveLength(loadsAsked);
      for (const { event: name } of told) counts[name] = (counts[name] ?? 0) + 1;
      engine.closing = true;
      await runtime.close();
      expect(engine.live.size).toBe(0);
    }),
    { numRuns: 20 },
  );
  expect(seen).toBeGreaterThanOrEqual(10_000);
  // The test would say nothing if these had not happened.
  for (const name of [
    "served",
    "FARM_WOULD_SWAP",
    "FARM_DEADLINE",
    "STOPPED",
    "evicted",
    "crashed",
    "wrong_estimate",
    "load_failed",
  ]) {
    expect(counts[name] ?? 0, name).toBeGreaterThan(0);
  }
});
