// The demonstration page. Every text from the service is set with textContent, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const ACTIONS = [["view", "View"], ["click", "Click"], ["share", "Share"], ["purchase", "Buy"]];
const places = new Map();
const titles = new Map();
const known = new Map();
const HUES = 8;
let turn = 0;

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

// Paths are relative to the page: a proxy may serve it under a path of its own.
async function call(method, path, body, tries = 5) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if ($("key").value) headers.authorization = "Bearer " + $("key").value;
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  // A version that is being opened, or a service at its limit, asks for a moment.
  if (answer.status === 503 && tries > 1) {
    await pause(Math.min(Number(answer.headers.get("retry-after")) || 1, 5));
    return call(method, path, body, tries - 1);
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(content.detail || answer.statusText), { status: answer.status });
  return content;
}

function say(text, isError) {
  $("status").textContent = text;
  $("status").classList.toggle("error", Boolean(isError));
}

async function guarded(work) {
  try { await work(); } catch (error) { say(error.message, true); }
}

function buttons(itemId, impression) {
  const row = element("div", "acts");
  for (const [type, label] of ACTIONS) {
    const button = element("button", "", label);
    button.type = "button";
    button.setAttribute("aria-label", label + " " + (titles.get(itemId) || itemId));
    button.addEventListener("click", () => guarded(() => act(itemId, type, impression)));
    row.append(button);
  }
  return row;
}

function keep(itemId, item) {
  known.set(itemId, item);
  titles.set(itemId, item.title || itemId);
}

async function titleOf(itemId) {
  if (!titles.has(itemId)) keep(itemId, await call("GET", "v1/items/" + encodeURIComponent(itemId)).catch(() => ({})));
  return titles.get(itemId);
}

// The item's own image where it has one on this service or as data; else a tile in the colour of its category.
function cover(itemId) {
  const item = known.get(itemId) || {}, attributes = item.attributes || {};
  const kind = item.category || (item.tags || [])[0] || "";
  const tile = element("div", "cover hue" + ([...kind].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 997, 7) % HUES), kind.slice(0, 2));
  tile.setAttribute("aria-hidden", "true");
  const address = attributes.image_url;
  if (typeof address !== "string" || !address) return tile;
  const image = element("img", "cover");
  image.alt = ""; image.loading = "lazy"; image.src = address;
  image.addEventListener("error", () => image.replaceWith(tile));
  return image;
}

function head(itemId, title, ...more) {
  const row = element("div", "titled"), words = element("div");
  words.append(element("span", "title", title), ...more);
  row.append(cover(itemId), words);
  return row;
}

function why(reasons, language) {
  const box = element("details");
  box.open = true;
  const said = (reasons.sentence || {})[language];
  box.append(element("summary", "why", said || (language === "zh" ? "为什么" : "Why")));
  const bars = element("div", "bars");
  const families = Object.entries(reasons.families || {}).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  for (const [family, share] of families) {
    const meter = element("meter");
    meter.min = 0; meter.max = 1; meter.value = Math.min(1, Math.abs(share));
    meter.setAttribute("aria-label", family);
    bars.append(element("span", "", family), meter, element("span", "", Math.round(share * 100) + " %"));
  }
  box.append(bars);
  for (const other of reasons.similar || []) {
    box.append(element("div", "meta", (language === "zh" ? "相似于：" : "Close to: ") + other.title + " (" + other.similarity.toFixed(2) + ")"));
  }
  return box;
}

async function show(list, answer, key) {
  const language = $("language").value;
  const before = places.get(key) || new Map();
  const now = new Map(answer.items.map((item, place) => [item.item_id, place]));
  const names = await Promise.all(answer.items.map((item) => titleOf(item.item_id)));
  list.replaceChildren(...answer.items.map((item, place) => {
    const row = element("li");
    row.dataset.itemId = item.item_id;
    const meta = element("div", "meta", "score " + (item.score === null ? "unknown" : item.score.toFixed(3)));
    if (before.size) {
      const old = before.get(item.item_id);
      const moved = old === undefined ? "new" : old - place;
      if (moved === "new") meta.append(" · ", element("span", "moved-up", "new in the list"));
      else if (moved > 0) meta.append(" · ", element("span", "moved-up", "up " + moved));
      else if (moved < 0) meta.append(" · ", element("span", "moved-down", "down " + -moved));
    }
    row.append(head(item.item_id, (place + 1) + ". " + names[place], meta));
    if (item.reasons) row.append(why(item.reasons, language));
    row.append(buttons(item.item_id, answer.impression_id));
    return row;
  }));
  if (!answer.items.length) list.append(element("li", "note", "Nothing to recommend."));
  places.set(key, now);
}

async function recommend() {
  const mine = ++turn;
  const ask = { user_id: $("user").value, k: Number($("length").value) || 10, diversity: Number($("diversity").value), explain: true, surface: "page" };
  const other = $("other").value;
  const [first, second] = await Promise.all([
    call("POST", "v1/recommend", ask),
    other ? call("POST", "v1/recommend", { ...ask, model_version: other }) : null,
  ]);
  if (mine !== turn) return;
  $("list-title").textContent = "Recommended by version " + first.model_version;
  await show($("list"), first, "first");
  $("second").hidden = !second;
  if (second) {
    $("second-title").textContent = "Recommended by version " + second.model_version;
    await show($("second-list"), second, "second");
  }
  const degraded = first.degraded ? " Simpler than usual: " + first.degraded.join(", ") + "." : "";
  say(first.items.length + " items for " + ask.user_id + "." + degraded, false);
}

async function history() {
  const user = await call("GET", "v1/users/" + encodeURIComponent($("user").value)).catch((error) => {
    if (error.status === 404 || error.status === 403) return { events: [] };
    throw error;
  });
  const events = (user.events || []).slice(-15).reverse();
  $("history").replaceChildren(...events.map((event) => {
    const row = element("li");
    row.append(element("span", "title", event.title || event.item_id));
    const value = event.value === undefined ? "" : " " + event.value;
    row.append(element("div", "meta", event.event_type + value + " · " + event.timestamp.slice(0, 16).replace("T", " ")));
    return row;
  }));
  if (!events.length) $("history").append(element("li", "note", "Nothing yet: new to the service."));
}

async function act(itemId, type, impression) {
  const event = { user_id: $("user").value, item_id: itemId, event_type: type };
  if (impression) event.impression_id = impression;
  await call("POST", "v1/events", event);
  await Promise.all([recommend(), history()]);
  say(type + " on " + (titles.get(itemId) || itemId) + " is stored; the list is new.", false);
}

async function search() {
  const answer = await call("GET", "v1/items?limit=20&query=" + encodeURIComponent($("query").value));
  $("found").replaceChildren(...answer.items.map((item) => {
    keep(item.item_id, item);
    const row = element("li");
    const facts = [...new Set([item.category, ...(item.tags || [])].filter(Boolean))].join(", ");
    row.append(head(item.item_id, item.title || item.item_id, element("div", "meta", facts)), buttons(item.item_id));
    return row;
  }));
  if (!answer.items.length) $("found").append(element("li", "note", "No title has these words."));
}

// Where would an item stand that nobody knows yet? It is ranked by its text beside the list, and not stored.
async function whatIf() {
  const shown = [...$("list").children].map((row) => row.dataset.itemId).filter(Boolean);
  const tags = $("new-tags").value.split(",").map((tag) => tag.trim()).filter(Boolean);
  const item = { item_id: "what-if:" + $("new-title").value.slice(0, 200), title: $("new-title").value, tags };
  if ($("new-text").value) item.description = $("new-text").value;
  const ask = { user_id: $("user").value, items: [...shown.filter((id) => id !== item.item_id), item], explain: 100, surface: "what-if" };
  const answer = await call("POST", "v1/rank", ask);
  const place = answer.items.findIndex((found) => found.item_id === item.item_id);
  keep(item.item_id, item);
  const found = answer.items[place], language = $("language").value;
  const box = head(item.item_id, item.title, element("div", "meta", "place " + (place + 1) + " of " + answer.items.length + " beside the list"));
  $("new-place").replaceChildren(box);
  if (found && found.reasons) $("new-place").append(why(found.reasons, language));
}

async function models() {
  const answer = await call("GET", "v1/models");
  $("champion").textContent = "Serving version " + answer.champion;
  for (const model of answer.models) {
    if (model.version === answer.champion) continue;
    const option = element("option", "", "version " + model.version);
    option.value = model.version;
    $("other").append(option);
  }
}

function start() {
  if (navigator.language.startsWith("zh")) $("language").value = "zh";
  const both = () => guarded(async () => { places.clear(); await Promise.all([recommend(), history()]); });
  $("who").addEventListener("submit", (event) => { event.preventDefault(); both(); });
  $("search").addEventListener("submit", (event) => { event.preventDefault(); guarded(search); });
  $("new").addEventListener("submit", (event) => { event.preventDefault(); guarded(whatIf); });
  for (const id of ["other", "language", "diversity"]) $(id).addEventListener("change", () => guarded(recommend));
  $("forget").addEventListener("click", () => guarded(async () => {
    await call("DELETE", "v1/users/" + encodeURIComponent($("user").value));
    await Promise.all([recommend(), history()]);
    say("Forgotten.", false);
  }));
  guarded(async () => { await Promise.all([models(), search(), history(), recommend()]); });
}

start();
