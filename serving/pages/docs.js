// The API page, drawn from /openapi.json. Texts are set with textContent, never as HTML.
"use strict";

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function words(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(words).join(" or ");
  if (schema.type === "array") return "list of " + words(schema.items || {});
  if (schema.type === "object") return "object";
  if (schema.enum) return schema.enum.join(" | ");
  return schema.format || schema.type || "any";
}

function limits(schema) {
  const known = ["minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties"];
  return known.filter((name) => name in schema).map((name) => name + " " + schema[name]).join(", ");
}

function table(rows, head) {
  const node = element("table");
  const top = element("tr");
  head.forEach((name) => { const cell = element("th", "", name); cell.scope = "col"; top.append(cell); });
  node.append(top);
  for (const row of rows) {
    const line = element("tr");
    row.forEach((text) => line.append(element("td", "", text)));
    node.append(line);
  }
  return node;
}

function fields(schema, document_) {
  const name = schema.$ref ? schema.$ref.split("/").pop() : null;
  const whole = name ? document_.components.schemas[name] : schema;
  if (!whole || !whole.properties) return element("p", "", words(schema));
  const required = whole.required || [];
  return table(Object.entries(whole.properties).map(([key, value]) => [
    key + (required.includes(key) ? " (required)" : ""), words(value), limits(value),
    value.description || "",
  ]), ["Field", "Type", "Limits", "Meaning"]);
}

function curl(method, path, operation) {
  let line = "curl";
  if (method !== "get") line += " -X " + method.toUpperCase();
  let url = new URL(".", location.href).href + path.slice(1);
  for (const parameter of operation.parameters || []) {
    if (parameter.in === "path") url = url.replace("{" + parameter.name + "}", encodeURIComponent(parameter.example));
  }
  line += " '" + url + "'";
  const body = operation.requestBody && operation.requestBody.content["application/json"].example;
  if (body) line += " \\\n  -H 'content-type: application/json' \\\n  -d '" + JSON.stringify(body).replaceAll("'", "'\\''") + "'";
  return line;
}

function draw(document_) {
  document.getElementById("version").textContent = "version " + document_.info.version;
  const place = document.getElementById("operations");
  place.replaceChildren();
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const box = element("details");
      const summary = element("summary");
      summary.append(element("span", "method", method.toUpperCase()), element("code", "", path), " ", element("span", "note", operation.summary));
      box.append(summary);
      if (operation.description) box.append(element("p", "", operation.description));
      if (operation.parameters) {
        box.append(element("h2", "", "Parameters"), table(operation.parameters.map((p) => [p.name, p.in, words(p.schema), p.description]), ["Name", "In", "Type", "Meaning"]));
      }
      if (operation.requestBody) {
        box.append(element("h2", "", "Body"));
        const schema = operation.requestBody.content["application/json"].schema;
        for (const option of schema.anyOf || [schema]) box.append(fields(option.items || option, document_));
      }
      box.append(element("h2", "", "Answers"), table(Object.entries(operation.responses).map(([status, answer]) => [
        status, answer.description, Object.values(answer.content || {}).map((c) => words(c.schema)).join(", "),
      ]), ["Status", "Meaning", "Body"]));
      box.append(element("h2", "", "Try it"), element("pre", "", curl(method, path, operation)));
      place.append(box);
    }
  }
}

fetch("openapi.json").then((answer) => answer.json()).then(draw).catch((error) => {
  document.getElementById("operations").replaceChildren(element("p", "error", String(error)));
});
