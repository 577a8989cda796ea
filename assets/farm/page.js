// The farm's page: what is where, who asks, what happens. Texts of models and clients are put in as text, never as HTML.

const MAX_EVENTS = 200;
const byId = (id) => document.getElementById(id);
let key = sessionStorage.getItem("farm-key") ?? "";

function headers() {
  return { "content-type": "application/json", ...(key === "" ? {} : { authorization: `Bearer ${key}` }) };
}

async function ask(path, method = "GET") {
  const response = await fetch(path, { method, headers: headers(), ...(method === "POST" ? { body: "{}" } : {}) });
  byId("key").hidden = response.status !== 401;
  const value = await response.json();
  if (!response.ok) throw new Error(value.error?.message ?? `HTTP ${response.status}`);
  return value;
}

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className !== "") made.className = className;
  return made;
}

function size(bytes) {
  let value = bytes;
  let unit = "B";
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return `${unit === "B" ? value : value.toFixed(value < 10 ? 2 : 1)} ${unit}`;
}

function counted(value, one, many = `${one}s`) {
  return `${value} ${value === 1 ? one : many}`;
}

function showMemory({ budget, used, bodies }) {
  const bytesOf = { VRAM: (body) => body.vram_bytes, RAM: (body) => body.ram_bytes, SSD: (body) => body.disk_bytes };
  const rows = Object.entries(bytesOf).map(([tier, bytes]) => {
    const row = element("div", "", "tier");
    const bar = element("div", "", "bar");
    bar.setAttribute("role", "img");
    const whole = Math.max(budget[tier], used[tier], 1);
    const words = [];
    bodies.forEach((body, at) => {
      if (bytes(body) === 0) return;
      const part = element(
        "span",
        body.name,
        `part k${at % 4} ${body.status === "ready" || tier === "SSD" ? "" : "loading"}`,
      );
      part.style.setProperty("width", `${(100 * bytes(body)) / whole}%`);
      part.title = `${body.name}: ${size(bytes(body))}`;
      words.push(part.title);
      bar.append(part);
    });
    bar.setAttribute("aria-label", `${tier}: ${words.join(", ") || "empty"}`);
    row.append(element("span", tier), bar, element("span", `${size(used[tier])} of ${size(budget[tier])}`));
    return row;
  });
  byId("memory").replaceChildren(...rows);
}

function button(words, name, action) {
  const made = element("button", words);
  made.setAttribute("aria-label", `${words} ${name}`);
  // What it does changes with what it did; whose it is does not.
  made.dataset.of = name;
  made.addEventListener("click", async () => {
    // Not `disabled`: a keyboard would lose its place.
    if (made.getAttribute("aria-disabled") === "true") return;
    made.setAttribute("aria-disabled", "true");
    try {
      await action();
    } catch (error) {
      happened({ event: "refused", at: new Date().toISOString(), message: error.message });
    }
    await refresh();
  });
  return made;
}

/** New rows take the focus of those they replace, so that a keyboard does not lose its place. */
function replaceRows(id, rows) {
  const focused = byId(id).contains(document.activeElement) ? document.activeElement.dataset.of : undefined;
  byId(id).replaceChildren(...rows);
  if (focused !== undefined)
    byId(id)
      .querySelector(`[data-of="${CSS.escape(focused)}"]`)
      ?.focus();
}

function row(cells) {
  const made = element("tr");
  for (const cell of cells) {
    const td = element("td");
    td.append(cell);
    made.append(td);
  }
  return made;
}

function showBodies(bodies) {
  replaceRows(
    "bodies",
    bodies.map((body) => {
      const { name, status, form, tier, kl } = body;
      const verb = status === "ready" ? "unload" : "load";
      const state = element(
        "span",
        body.unavailable ?? body.last_error ?? status,
        body.unavailable || body.last_error ? "bad" : "",
      );
      const path = `/farm/bodies/${encodeURIComponent(name)}/${verb}`;
      return row([
        name,
        state,
        form ?? "–",
        tier,
        kl === null ? "–" : kl.toPrecision(3),
        size(body.ram_bytes + body.vram_bytes),
        `${body.in_flight} of ${body.sequences}`,
        String(body.waiting),
        body.ledger_sha256?.slice(0, 12) ?? "none",
        button(verb, name, () => ask(path, "POST")),
      ]);
    }),
  );
}

function showOrgans(organs) {
  replaceRows(
    "organs",
    organs.map((organ) => {
      const { name, body, verifier, score, food, poison, energy, answers, pinned } = organ;
      const verb = pinned ? "unpin" : "pin";
      const path = `/farm/organs/${encodeURIComponent(name)}/${verb}`;
      const numbers = [score, food, poison, energy].map((value) => value.toFixed(3));
      return row([
        name,
        body,
        verifier ?? "–",
        ...numbers,
        String(answers),
        button(verb, name, () => ask(path, "POST")),
      ]);
    }),
  );
  const names = organs.map(({ name }) => name);
  const select = byId("model");
  if ([...select.options].map(({ value }) => value).join() === names.join()) return;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
}

async function refresh() {
  try {
    const farm = await ask("/farm");
    showMemory(farm);
    showBodies(farm.bodies);
    showOrgans(farm.organs);
    const waiting = farm.bodies.reduce((sum, body) => sum + body.waiting, 0);
    byId("state").textContent =
      `${counted(farm.bodies.length, "body", "bodies")}, ${counted(farm.organs.length, "organ")}, ${waiting} waiting`;
    byId("state").className = "";
  } catch (error) {
    byId("state").textContent = error.message;
    byId("state").className = "bad";
  }
}

function shown(name, value) {
  if (typeof value !== "number") return value;
  return name.endsWith("_bytes") ? size(value) : Number.isInteger(value) ? value : value.toFixed(2);
}

function happened({ event, at, ...more }) {
  const line = element("li", "", event === "crashed" || event === "load_failed" || event === "refused" ? "bad" : "");
  const words = Object.entries(more)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name} ${shown(name, value)}`);
  line.append(element("time", at.slice(11, 19)), `${event}  ${words.join(", ")}`);
  byId("events").prepend(line);
  while (byId("events").children.length > MAX_EVENTS) byId("events").lastChild.remove();
}

/** The `data:` lines of a stream. Not EventSource: that one cannot send a key. */
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

async function follow() {
  for (;;) {
    try {
      const response = await fetch("/farm/events", { headers: headers() });
      if (response.ok) {
        for await (const line of lines(response)) {
          happened(JSON.parse(line));
          void refresh();
        }
      }
    } catch {
      // The farm is gone for a while; the state line says so.
    }
    await refresh();
    await new Promise((wake) => setTimeout(wake, 2000));
  }
}

let asking;

async function send(event) {
  event.preventDefault();
  asking?.abort();
  asking = new AbortController();
  byId("answer").textContent = "";
  byId("facts").textContent = "waiting …";
  byId("facts").className = "";
  byId("stop").disabled = false;
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal: asking.signal,
      body: JSON.stringify({
        model: byId("model").value,
        stream: true,
        messages: [{ role: "user", content: byId("input").value }],
      }),
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const line of lines(response)) {
      if (line === "[DONE]") break;
      const chunk = JSON.parse(line);
      if (chunk.error) throw new Error(chunk.error.message);
      byId("answer").textContent += chunk.choices[0]?.delta.content ?? "";
      if (chunk.physarium) byId("facts").textContent = factsOf(chunk.physarium);
    }
  } catch (error) {
    byId("facts").textContent = error.name === "AbortError" ? "stopped" : error.message;
    byId("facts").className = error.name === "AbortError" ? "" : "bad";
  }
  byId("stop").disabled = true;
}

function factsOf({ form, tier, ledger_sha256: ledger, verdict, seconds, waited_seconds: waited }) {
  const checked =
    verdict === null
      ? "nothing checks it"
      : verdict.passed
        ? `passed ${verdict.verifier}`
        : `FAILED: ${verdict.reason}`;
  return `${form} in ${tier}, ledger ${ledger?.slice(0, 12) ?? "none"}, ${checked}, waited ${waited.toFixed(2)} s, ${seconds.toFixed(2)} s`;
}

byId("ask").addEventListener("submit", send);
byId("stop").addEventListener("click", () => asking?.abort());
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = byId("key-field").value;
  sessionStorage.setItem("farm-key", key);
  void refresh();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") asking?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
});
void refresh();
// Its scrolling must be within reach of a keyboard.
byId("events").tabIndex = 0;
void follow();
