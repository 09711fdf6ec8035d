// The page's behaviour. All text goes in as text (textContent), never as HTML: labels are other people's.
"use strict";

const ROW = 46; // pixels, as the style has it
const $ = (id) => document.getElementById(id);

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// What people call a relation or an attribute: of an IRI the last part, of each where there are two (a type and a class).
function local(name) {
  return name.split(" ").map((word) => {
    if (!/^[a-z][a-z0-9+.-]*:./i.test(word)) return word;
    const last = word.split(/[\/#:]/).filter(Boolean).pop();
    try { return decodeURIComponent(last); } catch { return last; }
  }).join(" ");
}

async function contents() {
  const packed = Uint8Array.from(atob($("data").textContent.trim()), (letter) => letter.charCodeAt(0));
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(plain).json();
}

function showSummary(data) {
  $("title").textContent = data.title;
  for (const [name, value] of data.summary) {
    const card = make("div");
    card.append(make("dt", name), make("dd", value));
    $("summary").append(card);
  }
  for (const note of data.notes) $("notes").append(make("li", note));
}

// Figures

function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const axis = (given) => ({ gridcolor: color("--line"), zerolinecolor: color("--line"), automargin: true, ...given });
  return {
    ...layout,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: color("--text"), size: 12 },
    margin: { l: 48, r: 20, t: 8, b: 40 },
    legend: { orientation: "h", y: 1.15 },
    xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
    ...(layout.yaxis2 ? { yaxis2: axis(layout.yaxis2) } : {}),
  };
}

function showFigures(figures) {
  const drawn = [];
  for (const figure of figures) {
    const card = make("div");
    const plot = make("div", null, { class: "plot", role: "img", "aria-label": `${figure.title}. ${figure.says}` });
    card.append(make("h2", figure.title), make("p", figure.says), plot);
    $("figures").append(card);
    drawn.push([plot, figure]);
  }
  const draw = () => {
    for (const [plot, figure] of drawn) {
      Plotly.react(plot, figure.traces, themed(figure.layout), { displayModeBar: false, responsive: true });
    }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

// Decisions: (left, right) -> "accepted" or "rejected", kept in the browser where it allows that.

class Decisions {
  constructor(key) {
    this.key = `loginmea-fast decisions: ${key}`;
    this.kept = new Map();
    this.undone = [];
    try {
      this.read(localStorage.getItem(this.key));
    } catch {
      this.warn();
    }
  }

  read(text) { this.kept = new Map(JSON.parse(text || "[]")); }

  warn() {
    $("warning").textContent = "This browser keeps nothing for this page: download your decisions before you close it.";
    $("warning").hidden = false;
  }

  of(left, right) { return this.kept.get(`${left}\t${right}`); }

  // An entity has one partner: accepting a pair takes back what else was accepted of its two entities.
  others(pair) {
    const [left, right] = pair.split("\t");
    return [...this.kept.keys()].filter((key) => {
      const [a, b] = key.split("\t");
      return key !== pair && this.kept.get(key) === "accepted" && (a === left || b === right);
    });
  }

  set(asked) {
    const named = new Set(asked.map(([key]) => key));
    const gone = asked.filter(([, value]) => value === "accepted").flatMap(([key]) => this.others(key));
    const changes = [...gone.filter((key) => !named.has(key)).map((key) => [key, undefined]), ...asked];
    this.undone.push(changes.map(([key]) => [key, this.kept.get(key)]));
    this.write(changes);
  }

  undo() {
    const last = this.undone.pop();
    if (last) this.write(last);
    return Boolean(last);
  }

  write(changes) {
    for (const [key, value] of changes) {
      if (value === undefined) this.kept.delete(key);
      else this.kept.set(key, value);
    }
    try {
      localStorage.setItem(this.key, JSON.stringify([...this.kept]));
    } catch {
      this.warn();
    }
  }

  table() {
    const quoted = (cell) => (cell.includes('"') ? `"${cell.replaceAll('"', '""')}"` : cell);
    const rows = [...this.kept].map(([key, value]) => [...key.split("\t").map(quoted), value].join("\t"));
    return ["left\tright\tdecision", ...rows].join("\n") + "\n";
  }
}

// Matches

class Matches {
  constructor(data) {
    this.data = data;
    this.columns = data.matches;
    this.entities = data.entities;
    this.decisions = new Decisions(data.key);
    this.texts = this.columns.left.map((left, at) => this.text(left) + " " + this.text(this.columns.right[at]));
    this.partner = new Map(); // of an entity of either side, for neighbours that match
    this.columns.left.forEach((left, at) => {
      if (this.columns.accepted[at]) this.partner.set(`${this.entities[left].id}\t${this.entities[this.columns.right[at]].id}`, true);
    });
    this.chosen = 0;
    this.fill("show", [["all", "all"], ["open", "not decided"], ["accepted", "accepted by confidence"],
      ["rejected", "not sure enough"], ["decided", "decided"], ...(this.columns.change.some(Boolean) ? [["changed", "changed"]] : [])]);
    this.fill("order", [["doubtful", "most doubtful first"], ["most", "surest first"], ["least", "least sure first"],
      ["name", "by name"]]);
    for (const id of ["show", "order"]) $(id).addEventListener("change", () => this.again());
    let waiting;
    $("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.again(), 120);
    });
    $("list").addEventListener("scroll", () => requestAnimationFrame(() => this.rows()), { passive: true });
    addEventListener("resize", () => this.rows());
    addEventListener("storage", (event) => { // another tab has decided
      if (event.key !== this.decisions.key) return;
      this.decisions.read(event.newValue);
      this.choose(this.chosen);
    });
    $("download").addEventListener("click", () => this.download());
    $("help").addEventListener("click", () => {
      $("keys").hidden = !$("keys").hidden;
      $("help").setAttribute("aria-expanded", String(!$("keys").hidden));
    });
    addEventListener("keydown", (event) => this.key(event));
    $("decide").hidden = false;
    this.again();
  }

  fill(id, options) {
    for (const [value, text] of options) $(id).append(make("option", text, { value }));
  }

  text(entity) {
    const { name, id } = this.entities[entity];
    return `${name} ${id}`.toLowerCase();
  }

  decision(at) {
    const { left, right } = this.columns;
    return this.decisions.of(this.entities[left[at]].cell, this.entities[right[at]].cell);
  }

  filter() {
    const wanted = $("search").value.trim().toLowerCase();
    const keep = {
      all: () => true,
      open: (at) => this.decision(at) === undefined,
      accepted: (at) => this.columns.accepted[at],
      rejected: (at) => !this.columns.accepted[at],
      decided: (at) => this.decision(at) !== undefined,
      changed: (at) => Boolean(this.columns.change[at]),
    }[$("show").value];
    this.shown = [];
    for (let at = 0; at < this.texts.length; at++) {
      if (keep(at) && (!wanted || this.texts[at].includes(wanted))) this.shown.push(at);
    }
    const confidence = this.columns.confidence;
    const by = {
      doubtful: (at) => Math.abs(confidence[at] - this.data.threshold), // a decision tells most where the threshold is
      least: (at) => confidence[at], most: (at) => -confidence[at],
    }[$("order").value];
    if (by) this.shown.sort((a, b) => by(a) - by(b));
    else this.shown.sort((a, b) => this.texts[a].localeCompare(this.texts[b]));
    $("rows").style.height = `${this.shown.length * ROW}px`;
    $("list").scrollTop = 0;
  }

  again() {
    this.filter();
    this.choose(0);
  }

  count() {
    const decided = this.decisions.kept.size;
    $("count").textContent = `${this.shown.length.toLocaleString("en")} matches, ${decided.toLocaleString("en")} decided`;
  }

  rows() {
    const list = $("list"), rows = $("rows");
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
    const end = Math.min(this.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
    rows.replaceChildren();
    for (let place = first; place < end; place++) rows.append(this.row(place));
    const active = $(`row-${this.chosen}`);
    if (active) list.setAttribute("aria-activedescendant", active.id);
    else list.removeAttribute("aria-activedescendant");
    this.count();
  }

  row(place) {
    const at = this.shown[place], c = this.columns;
    const decided = this.decision(at), state = decided || c.change[at] || (c.accepted[at] ? "" : "not sure");
    const row = make("div", null, {
      id: `row-${place}`, role: "option", class: `row ${decided || ""}`, "aria-selected": String(place === this.chosen),
      "aria-posinset": place + 1, "aria-setsize": this.shown.length,
    });
    const [left, right] = [this.entities[c.left[at]].name, this.entities[c.right[at]].name];
    row.setAttribute("aria-label", `${left} and ${right}, confidence ${c.confidence[at].toFixed(2)}${state ? `, ${state}` : ""}`);
    row.append(make("span", left, { dir: "auto" }), make("span", right, { dir: "auto" }),
      make("span", c.confidence[at].toFixed(3), { class: "sure" }), make("span", state, { class: `state ${decided || ""}` }));
    row.style.top = `${place * ROW}px`;
    row.addEventListener("click", () => this.choose(place));
    return row;
  }

  choose(place) {
    this.chosen = Math.max(0, Math.min(place, this.shown.length - 1));
    const list = $("list"), top = this.chosen * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    this.rows();
    this.detail();
  }

  others(at) {
    const { side, of } = this.data.candidates;
    const [from, taken] = side === "left" ? ["left", "right"] : ["right", "left"];
    return (of[this.columns[from][at]] || []).filter(([other]) => other !== this.columns[taken][at])
      .map(([other, score]) => (side === "left" ? [this.columns.left[at], other, other, score] : [other, this.columns.right[at], other, score]));
  }

  decide(value) {
    if (!this.shown.length) return;
    const at = this.shown[this.chosen], c = this.columns;
    const key = `${this.entities[c.left[at]].cell}\t${this.entities[c.right[at]].cell}`;
    this.decisions.set([[key, this.decision(at) === value ? undefined : value]]);
    this.choose(this.chosen + 1);
  }

  instead(number) {
    if (!this.shown.length) return;
    const at = this.shown[this.chosen], c = this.columns, other = this.others(at)[number];
    if (!other) return;
    const cell = (entity) => this.entities[entity].cell;
    this.decisions.set([[`${cell(c.left[at])}\t${cell(c.right[at])}`, "rejected"], [`${cell(other[0])}\t${cell(other[1])}`, "accepted"]]);
    this.choose(this.chosen);
  }

  detail() {
    const detail = $("detail");
    detail.replaceChildren();
    detail.scrollTop = 0;
    if (!this.shown.length) {
      detail.append(make("p", "No match is shown: search for something else, or show all."));
      return;
    }
    const at = this.shown[this.chosen], c = this.columns, decided = this.decision(at);
    const [left, right] = [this.entities[c.left[at]], this.entities[c.right[at]]];
    const act = make("div", null, { class: "act" });
    for (const [value, text] of [["accepted", "Accept (a)"], ["rejected", "Reject (r)"]]) {
      const button = make("button", text, { type: "button", class: value, "aria-pressed": String(decided === value) });
      button.addEventListener("click", () => this.decide(value));
      act.append(button);
    }
    const undo = make("button", "Undo (u)", { type: "button" });
    undo.addEventListener("click", () => this.undo());
    act.append(undo);
    const ranked = c.score[at] === null ? [] : [`score ${c.score[at]}`, `margin ${c.margin[at] ?? "-"}`,
      c.mutual[at] ? "each is the other's best" : "another is better for one of them"];
    const facts = [`confidence ${c.confidence[at].toFixed(3)}`, ...ranked, ...(c.source[at] ? [`from ${c.source[at]}`] : []), ...(c.change[at] ? [`${c.change[at]} since the earlier alignment`] : [])];
    detail.append(act, make("p", facts.join("; "), { class: "id" }), this.evidence(at), this.sides(left, right));
    const others = this.others(at);
    if (others.length) {
      const options = make("ol");
      others.forEach(([, , other, score], number) => {
        const item = make("li"), decision = this.decisions.of(...(this.data.candidates.side === "left"
          ? [left.cell, this.entities[other].cell] : [this.entities[other].cell, right.cell]));
        const button = make("button", `this one (${number + 1})`, { type: "button" });
        button.addEventListener("click", () => this.instead(number));
        item.append(make("span", `${this.entities[other].name} (${score})`, { dir: "auto", class: decision || "" }), button);
        options.append(item);
      });
      detail.append(make("h3", "Other candidates"), options);
    }
  }

  evidence(at) {
    const box = make("div", null, { class: "evidence" });
    for (const [name, values] of Object.entries(this.data.evidence)) {
      const value = values[at] ?? 0;
      const meter = make("meter", null, { min: 0, max: 1, value: Math.max(0, value), "aria-label": `${name} ${value}` });
      box.append(make("span", name), meter, make("span", value.toFixed(2)));
    }
    return box;
  }

  sides(left, right) {
    const box = make("div", null, { class: "sides" });
    const alike = (entity, other, own) => entity[own].filter(([, b]) => b && other[own].some(([, d]) => d === b));
    for (const [entity, other] of [[left, right], [right, left]]) {
      const column = make("div");
      if (entity.picture) { // above the name, so that the two stand at one height
        column.append(make("img", null, { src: `data:image/jpeg;base64,${entity.picture}`, alt: `Picture of ${entity.name}` }));
      }
      column.append(make("h2", entity.name, { dir: "auto" }), make("p", entity.id, { class: "id" }));
      const shared = alike(entity, other, "attributes");
      this.table(column, "Attributes", entity.attributes.map((row) => [row[0], row[1], shared.includes(row)]));
      const total = entity.degree === null || entity.degree === undefined ? "" : `, ${entity.degree} in all`;
      this.table(column, `Neighbours${total}`, entity.neighbors.map(([direction, relation, name, id, known]) =>
        [`${direction === "out" ? "→" : "←"} ${relation}`, name, this.matched(entity, id, known, other)]));
      box.append(column);
    }
    return box;
  }

  matched(entity, neighbor, known, other) {
    return other.neighbors.some(([, , , id]) => id === known || this.partner.has(entity.side === "left" ? `${neighbor}\t${id}` : `${id}\t${neighbor}`));
  }

  table(column, title, rows) {
    if (!rows.length) return;
    const table = make("table");
    for (const [name, value, same] of rows) {
      const row = make("tr", null, same ? { class: "same", title: "the other one has it too" } : {});
      const [arrow, said] = /^[→←] /.test(name) ? [name.slice(0, 2), name.slice(2)] : ["", name];
      row.append(make("td", arrow + local(said), { dir: "auto", title: said }), make("td", value, { dir: "auto" }));
      table.append(row);
    }
    column.append(make("h3", title), table);
  }

  undo() {
    if (this.decisions.undo()) this.choose(this.chosen);
  }

  download() {
    const link = make("a", null, { download: "decisions.tsv" });
    link.href = URL.createObjectURL(new Blob([this.decisions.table()], { type: "text/tab-separated-values" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  key(event) {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (typing && event.key === "Escape") event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor($("list").clientHeight / ROW) - 1);
    const moves = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9 };
    const acts = {
      a: () => this.decide("accepted"), r: () => this.decide("rejected"), u: () => this.undo(), d: () => this.download(),
      "/": () => $("search").focus(), "?": () => $("help").click(),
    };
    if (event.key in moves) this.choose(this.chosen + moves[event.key]);
    else if (event.key in acts) acts[event.key]();
    else if (event.key >= "1" && event.key <= "9") this.instead(Number(event.key) - 1);
    else return;
    event.preventDefault();
  }
}

contents().then((data) => {
  showSummary(data);
  if (data.matches) window.matches = new Matches(data);
  showFigures(data.figures);
}).catch((error) => {
  $("title").textContent = `This page cannot be shown (${error.message}): open it in a newer browser, or write it again.`;
});
