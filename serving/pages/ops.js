// The operator's page. Every text from the service is set with textContent, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
}

const number = (value, digits = 4) => (value === null || value === undefined ? "—"
  : Number.isInteger(value) ? value.toLocaleString("en") : Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(digits));
const day = (text) => (text ? String(text).slice(0, 16).replace("T", " ") : "—");
const moment = (microseconds) => (microseconds ? day(new Date(microseconds / 1000).toISOString()) : null);

function bytes(count) {
  if (count === undefined || count === null) return "—";
  for (const unit of ["bytes", "kB", "MB", "GB"]) {
    if (count < 1000 || unit === "GB") return count.toFixed(unit === "bytes" ? 0 : 1) + " " + unit;
    count /= 1000;
  }
}

function seconds(value) {
  if (value === null || value === undefined) return "—";
  return value < 90 ? value.toFixed(1) + " s" : Math.floor(value / 60) + " min " + Math.round(value % 60) + " s";
}

function table(heads, rows) {
  const box = element("div", "scroll"), made = element("table"), top = element("tr");
  box.tabIndex = 0;
  for (const head of heads) { const cell = element("th", "", head); cell.scope = "col"; top.append(cell); }
  const head = element("thead"), body = element("tbody");
  head.append(top);
  for (const row of rows) {
    const line = element("tr");
    row.forEach((value, place) => {
      const cell = element(place ? "td" : "th");
      if (!place) cell.scope = "row";
      cell.append(value instanceof Node ? value : String(value ?? "—"));
      line.append(cell);
    });
    body.append(line);
  }
  made.append(head, body);
  box.append(made);
  return box;
}

function facts(pairs) {
  const list = element("dl", "facts");
  for (const [label, value] of pairs) list.append(element("dt", "", label), element("dd", "", value));
  return list;
}

function put(id, ...nodes) {
  const shown = nodes.filter(Boolean);
  $(id).replaceChildren(...(shown.length ? shown : [element("p", "note", "Nothing yet.")]));
}

const word = (text, good, bad) => element("span", text === good ? "good" : text === bad ? "error" : "", text);
const counts = (values) => Object.entries(values || {}).map(([k, n]) => k + ": " + number(n)).join(", ") || "none";

function now(view) {
  const work = view.workspace, log = view.log;
  const behind = Object.entries(log.records_behind || {}).map(([v, n]) => "version " + v + ": " + n).join(", ");
  put("now", facts([
    ["champion", "version " + (work.champion ?? "—")],
    ["a night at work", work.at_work ? work.at_work.command + ", since " + day(work.at_work.since) : "no"],
    ["log ends at record", number(log.end)],
    ["records not folded in yet", behind || "—"],
    ["impressions waiting, lost", number(log.impressions_waiting) + ", " + number(view.service.impressions_lost)],
    ["state", bytes((work.bytes || {}).state)],
    ["log", (work.bytes || {}).log === undefined ? "in a database" : bytes(work.bytes.log)],
    ["versions in memory", number(view.service.versions_open)],
  ]));
}

function service(found) {
  const rows = Object.entries(found.routes).sort((a, b) => b[1].calls - a[1].calls)
    .map(([route, r]) => [route, number(r.calls), "≤ " + number(r.p50_ms, 1), "≤ " + number(r.p99_ms, 1)]);
  put("service", rows.length && table(["route", "calls", "p50 ms", "p99 ms"], rows), facts([
    ["degraded answers", counts(found.degraded)], ["answers by status", counts(found.statuses)],
    ["events", counts(found.events)], ["refused as overload", number(found.overload)],
    ["failed reads or writes of the log", number(found.log_errors)],
  ]));
}

function nights(rows) {
  put("nights", (rows || []).length && table(["version", "when", "outcome", "nDCG@10", "why"], rows.map((n) => {
    const ndcg = n["ndcg@10"], why = element("div", "reasons");
    for (const reason of n.reasons) why.append(element("div", "", reason));
    return [n.version + (n.aliases.length ? " (" + n.aliases.join(", ") + ")" : ""), day(n.at), n.outcome, number(Array.isArray(ndcg) ? ndcg[0] : ndcg), why];
  })));
}

function curve(versions, name) {
  const points = versions.flatMap((v) => Object.entries(v.days).map(([d, rates]) => [d, ...(rates[name] || [])]))
    .filter((p) => p[1] !== null && p[1] !== undefined).sort((a, b) => (a[0] < b[0] ? -1 : 1));
  if (points.length < 2) return null;
  const most = Math.max(...points.map((p) => p[3] ?? p[1])) || 1, svg = document.createElementNS(SVG, "svg");
  const x = (n) => 10 + (280 * n) / (points.length - 1), y = (value) => 70 - (60 * value) / most;
  svg.setAttribute("viewBox", "0 0 300 80");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", name + " by day: " + points.map((p) => p[0] + " " + number(p[1])).join(", "));
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.map((p, n) => x(n) + "," + y(p[1])).join(" "));
  svg.append(line);
  points.forEach((p, n) => {
    if (p[2] === null || p[2] === undefined) return;
    const span = document.createElementNS(SVG, "line");
    for (const [key, value] of [["x1", x(n)], ["x2", x(n)], ["y1", y(p[2])], ["y2", y(p[3])]]) span.setAttribute(key, value);
    svg.append(span);
  });
  const figure = element("figure");
  figure.append(svg, element("figcaption", "note", name + " by day, " + points[0][0] + " to " + points[points.length - 1][0] + ", up to " + number(most)));
  return figure;
}

function live(found) {
  if (!found || !found.versions.length) { put("live"); return; }
  const names = Object.keys(found.versions[0].rates);
  const rows = found.versions.map((v) => [v.version + (v.version === found.champion ? " (champion)" : ""), number(v.lists),
    ...names.map((name) => {
      const [value, low, high] = v.rates[name], cell = element("div", "", number(value));
      if (low !== null) cell.append(element("div", "note", number(low) + " – " + number(high)));
      return cell;
    }), number(v.coverage)]);
  const change = found.change["positive@10"];
  const said = found.fall || (change ? "No sure fall against version " + found.before + "." : "No version before to hold it against.");
  put("live", element("p", found.fall ? "error" : "", said), table(["version", "lists", ...names, "coverage"], rows), curve(found.versions, "positive@10"));
}

function experiments(rows) {
  put("experiments", (rows || []).length && table(["name", "what", "state", "last report"], rows.map((e) => [
    e.name, e.kind + ", version " + e.challenger + " against " + e.control + ", share " + e.share,
    e.stopped ? "stopped " + moment(e.stopped) + (e.reason ? ": " + e.reason : "") : "runs since " + moment(e.started),
    (e.decision || "none yet") + (e.units ? " (" + e.units.map((n) => number(n)).join(" and ") + " units)" : ""),
  ])));
}

function history(rows) {
  put("history", (rows || []).length && table(["when", "what", "why"], rows.map((c) => [
    day(c.at), c.action + " " + c.version + (c.before ? " (before: " + c.before + ")" : ""), element("div", "reasons", c.reason),
  ])));
}

function stages(night) {
  if (!night || !night.stages.length) { put("stages"); return; }
  const most = Math.max(...night.stages.map((s) => s.seconds || 0), 0.001);
  put("stages", element("p", "note", night.report + ", " + seconds(night.seconds) + " in all"),
    table(["stage", "time", "", "peak MB"], night.stages.map((s) => {
      const meter = element("meter");
      meter.max = most; meter.value = s.seconds || 0;
      meter.setAttribute("aria-label", s.name + " " + seconds(s.seconds));
      return [s.name, s.skipped ? "as before" : seconds(s.seconds), meter, number(s.peak_mb, 0)];
    })));
}

function drift(night) {
  if (!night) { put("drift"); return; }
  const parity = night.parity.map((p) => [p.name, word(p.passed ? "passed" : "failed", "passed", "failed"), element("div", "reasons", p.detail)]);
  const moved = night.drift.map((r) => [r.what, r.measure + " " + number(r.value, 3), number(r.limit, 3), word(r.level, "ok", "stop")]);
  put("drift", parity.length && table(["parity", "finding", "detail"], parity),
    moved.length && table(["drift", "value", "limit", "finding"], moved));
}

function alarms(view) {
  const work = view.workspace, night = work.last_night, said = [...(work.missing || []).map((m) => "cannot be read: " + m)];
  if (view.log.trouble) said.push("the log: " + view.log.trouble);
  if (night) said.push(...night.alarms);
  if (work.live && work.live.fall) said.push(work.live.fall);
  $("alarms").hidden = !said.length;
  $("alarms-list").replaceChildren(...[...new Set(said)].map((text) => element("li", "", text)));
}

async function look() {
  const headers = $("key").value ? { authorization: "Bearer " + $("key").value } : {};
  try {
    const answer = await fetch("v1/ops", { headers });
    const view = await answer.json();
    if (!answer.ok) throw new Error(view.detail || answer.statusText);
    const work = { nights: [], history: [], experiments: [], ...view.workspace };
    view.workspace = work;
    $("name").textContent = work.name ? work.name + ": operations" : "recsys: operations";
    $("champion").textContent = work.champion ? "Serving version " + work.champion : "";
    alarms(view); now(view); service(view.service); nights(work.nights); live(work.live);
    experiments(work.experiments); history(work.history); stages(work.last_night); drift(work.last_night);
    $("status").textContent = (work.last_night ? work.last_night.verdict + " " : "") + "Looked at " + day(new Date().toISOString()) + " UTC.";
    $("status").classList.remove("error");
  } catch (error) {
    $("status").textContent = error.message;
    $("status").classList.add("error");
  }
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); look(); });
look();
