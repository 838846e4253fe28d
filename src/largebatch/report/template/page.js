// Draws the figures of the page, their legends and data tables, and keeps them to the cells that the reader has chosen.
// Figures are described in the page's JSON as _figure.py tells; lists of numbers are places in `page.columns`. Names come
// from users: into the document they go as text, into Plotly, which knows some tags, escaped.
(() => {
  "use strict";
  const page = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  // Found by search: 25 or more apart in CIELAB also for the colour-blind, and 3:1 on the light and on the dark page.
  const COLOURS = ["#0f7fc2", "#d55e00", "#3ca0b4", "#821eff", "#64695f", "#d27d5a"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross"];
  const SHAPES = ["M9 6a5 5 0 1 0 10 0a5 5 0 1 0-10 0", "M10 2h8v8h-8z", "M14 0l6 6-6 6-6-6z", "M14 1l6 10H8z",
    "M10 2l8 8M18 2l-8 8", "M14 11l6-10H8z", "M14 1v10M9 6h10"];
  const PATTERNS = { solid: "", dash: "6 4", dot: "2 3", dashdot: "6 3 2 3", longdash: "10 4" };
  const MARKERS_UP_TO = 30, LETTER = 7.5, TABLE_ROWS = 500, PRINT = { width: 680, height: 300 };
  const places = new Map(page.cells.map((cell, place) => [cell.name, place]));
  const chosen = {
    cells: new Set(page.cells.filter((cell) => cell.on).map((cell) => cell.name)), seeds: new Set(page.seeds), runs: false,
  };

  const column = (place) => (place === undefined ? [] : page.columns[place]);
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const variable = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  }

  // How a cell looks, in every figure and before its name.
  function look(place) {
    const round = Math.floor(place / COLOURS.length);
    return { colour: COLOURS[place % COLOURS.length], dash: DASHES[round % DASHES.length],
      symbol: place % SYMBOLS.length };
  }

  function mark(place, dash) {
    const how = look(place), space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    const draw = (tag, attributes) => {
      const node = document.createElementNS(space, tag);
      Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
      svg.append(node);
    };
    svg.setAttribute("viewBox", "0 0 28 12");
    svg.setAttribute("width", "30");
    svg.setAttribute("height", "12");
    svg.setAttribute("aria-hidden", "true");
    draw("path", { d: "M0 6h28", stroke: how.colour, "stroke-width": 2, fill: "none", "stroke-dasharray": PATTERNS[dash ?? how.dash] });
    draw("path", { d: SHAPES[how.symbol], fill: how.colour, stroke: how.colour, "stroke-width": 1.5, transform: "translate(3.5 1.5) scale(.75)" });
    return svg;
  }

  function save(name, content, type) {
    const link = make("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const fileName = (...parts) => parts.filter(Boolean).join("-").replace(/[^\p{L}\p{N}_.]+/gu, "-").replace(/-$/, "");

  // The library is unpacked once, after the words have been painted.
  let library = null;
  function plotly() {
    library ??= (async () => {
      const packed = atob(document.getElementById("library").textContent), bytes = new Uint8Array(packed.length);
      for (let i = 0; i < bytes.length; i += 1) bytes[i] = packed.charCodeAt(i);
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      document.head.append(make("script", {}, await new Response(stream).text()));
      return window.Plotly;
    })();
    return library;
  }

  const isShown = (series) => (!series.cell || chosen.cells.has(series.cell))
    && (!series.one_run || (chosen.runs && chosen.seeds.has(series.seed)));

  // What the table and the CSV hold: heads, then rows.
  function rowsOf(view, series) {
    if (view.surface) {
      const { x, y, z, title } = view.surface, xs = column(x), ys = column(y);
      return [[view.x.title, view.y.title, title], ...z.flatMap((row, j) => column(row).map((value, i) => [xs[i], ys[j], value]))];
    }
    const bounded = series.some((one) => one.low !== undefined);
    const head = ["series", view.x.title, view.y.title, ...(bounded ? ["low", "high"] : [])];
    return [head, ...series.flatMap((one) => {
      const [x, y, low, high] = [one.x, one.y, one.low, one.high].map(column);
      return x.map((value, i) => [one.name, value, y[i], ...(bounded ? [low[i] ?? null, high[i] ?? null] : [])]);
    })];
  }

  function csv(rows) {
    const field = (value) => (typeof value === "string" && /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value ?? "");
    return rows.map((row) => row.map(field).join(",")).join("\n") + "\n";
  }

  function tableOf([head, ...rows]) {
    const shown = (value) => (typeof value === "number" ? String(Number(value.toPrecision(5))) : value ?? "–");
    const body = make("tbody", {}, ...rows.slice(0, TABLE_ROWS).map((row) => make("tr", {}, ...row.map((value) => make("td", {}, shown(value))))));
    const more = rows.length > TABLE_ROWS ? ` The first ${TABLE_ROWS} of ${rows.length} rows; the CSV has all.` : "";
    return make("table", {}, make("caption", {}, `What is drawn above.${more}`),
      make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))), body);
  }

  // Points of one abscissa side by side, so that their bars do not hide each other.
  function apart(view, series) {
    if (!view.spread) return new Map();
    return new Map(series.map((one) => {
      const group = series.filter((other) => column(other.x)[0] === column(one.x)[0]);
      const step = Math.min(0.12, 0.8 / group.length);
      return [one, 2 ** (step * (group.indexOf(one) - (group.length - 1) / 2))];
    }));
  }

  // Around a line, from low to high; where the line has holes, so has the band: polygons with nothing between them.
  function band(x, low, high, colour) {
    const pieces = [[]];
    x.forEach((_, i) => {
      if ([x[i], low[i], high[i]].some((value) => value === null)) pieces.push([]);
      else pieces.at(-1).push(i);
    });
    const round = (there, back) => pieces.filter((piece) => piece.length)
      .flatMap((piece) => [...piece.map((i) => there[i]), ...piece.toReversed().map((i) => back[i]), null]);
    return { type: "scatter", mode: "lines", fill: "toself", hoverinfo: "skip", showlegend: false, line: { width: 0 },
      fillcolor: `${colour}33`, x: round(x, x), y: round(high, low) };
  }

  function traces(view, series) {
    if (view.surface) return surface(view);
    const shift = apart(view, series), drawn = [], bands = [];
    // Bounds below zero end a little below the lowest point of a logarithmic axis.
    const floor = view.y.log ? ends(series.flatMap((one) => column(one.y)))[0] / 3 : -Infinity;
    series.forEach((one, order) => {
      const place = one.cell ? places.get(one.cell) : order, how = look(place);
      const x = column(one.x).map((value) => (value === null ? null : value * (shift.get(one) ?? 1))), y = column(one.y);
      const told = column(one.low), low = told.map((value) => (value === null ? null : Math.max(value, floor))), high = column(one.high);
      const bounded = low.some((value) => value !== null);
      const trace = {
        type: "scatter", x, y, name: escaped(one.name), showlegend: false, customdata: column(one.x).map((value, i) => [value, told[i], high[i]]),
        mode: one.points ? "markers" : one.one_run || x.length > MARKERS_UP_TO ? "lines" : "lines+markers",
        line: { color: how.colour, width: one.one_run ? 1 : 2.2, dash: one.dashed ? "dash" : view.x.title === "α" ? "solid" : how.dash },
        marker: { color: how.colour, size: one.points ? 9 : 5, symbol: SYMBOLS[how.symbol] },
        opacity: one.one_run ? 0.6 : 1,
        hovertemplate: `<b>%{fullData.name}</b><br>${escaped(view.x.title)}: %{customdata[0]:.5~g}<br>${escaped(view.y.title)}: %{y:.5~g}`
          + (bounded ? " [%{customdata[1]:.4~g}, %{customdata[2]:.4~g}]" : "") + "<extra></extra>",
      };
      if (one.points && bounded) {
        trace.error_y = { type: "data", symmetric: false, array: y.map((value, i) => (high[i] ?? value) - value),
          arrayminus: y.map((value, i) => value - (low[i] ?? value)), thickness: 1.6, width: 5, color: how.colour };
      } else if (bounded) {
        bands.push(band(x, low, high, how.colour));
      }
      drawn.push(trace);
    });
    return [...bands, ...drawn];
  }

  // The smallest and the largest positive value: what a logarithmic axis spans.
  const ends = (values) => values.reduce(([low, high], value) => (value > 0 ? [Math.min(low, value), Math.max(high, value)] : [low, high]), [Infinity, 0]);

  function decades(values) {
    const [low, high] = ends(values);
    return Math.log10(high / low);
  }

  const powerOfTen = (power) => `10${[...String(power)].map((sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] ?? "⁻").join("")}`;

  function surface(view) {
    const { x, y, z, limits, title } = view.surface;
    const [low, high] = limits.map(Math.log10), values = z.map(column);
    const steps = [1, 2, 5].flatMap((factor) => Array.from({ length: 40 }, (_, i) => factor * 10 ** (i - 20)));
    const within = steps.filter((value) => value >= limits[0] && value <= limits[1]).sort((a, b) => a - b);
    const decades = within.length > 8 ? within.filter((value) => /^1(e|0*$)|^0\.0*1$/.test(String(value))) : within;
    return [
      { type: "contour", x: column(x), y: column(y), z: values.map((row) => row.map((value) => (value > 0 ? Math.log10(value) : null))),
        customdata: values, colorscale: "Cividis", zmin: low, zmax: high, autocontour: false, line: { width: 0.6, color: "rgba(255,255,255,.6)" },
        contours: { start: low, end: high, size: (high - low) / 18 || 1 },
        colorbar: { title: { text: title, side: "right" }, thickness: 14, outlinewidth: 0, tickvals: decades.map(Math.log10),
          ticktext: decades.map((value) => (value >= 0.01 && value < 1e4 ? String(Number(value.toPrecision(1))) : powerOfTen(Math.round(Math.log10(value))))) },
        hovertemplate: `%{x:.3~g}, %{y:.3~g}<br>${escaped(title)}: %{customdata:.5~g}<extra></extra>` },
      { type: "scatter", mode: "markers", x: [0], y: [0], showlegend: false, hoverinfo: "skip", marker: { symbol: "cross-thin", size: 13, line: { width: 2, color: "#fff" } } },
    ];
  }

  function layout(view, series, key, { width, height }) {
    const ink = variable("--ink"), line = variable("--line"), paper = variable("--paper");
    // A title longer than its axis goes on in a second line, where it has a comma.
    const fitted = (title, pixels) => escaped(title).replaceAll(", ", title.length * LETTER > pixels ? ",<br>" : ", ");
    const axis = (told, values, pixels) => ({
      title: { text: fitted(told.title, pixels), standoff: 8 }, type: told.log ? "log" : "linear", automargin: true, gridcolor: line,
      zerolinecolor: line, linecolor: line, showline: true, exponentformat: "power",
      ...(told.log ? { dtick: decades(values) >= 2 ? 1 : "D2" } : {}), ...(told.ticks.length ? { tickvals: told.ticks, ticktext: told.ticks.map(String) } : {}),
    });
    const rules = view.rules.map((rule) => ({ type: "line", [`${rule.axis}0`]: rule.at, [`${rule.axis}1`]: rule.at,
      ...(rule.axis === "x" ? { y0: 0, y1: 1, yref: "paper" } : { x0: 0, x1: 1, xref: "paper" }), line: { color: ink, width: 1, dash: "dash" } }));
    const notes = view.rules.map((rule) => ({ text: escaped(rule.text), showarrow: false, font: { size: 11 },
      ...(rule.axis === "x" ? { x: rule.at, yref: "paper", y: 1, xanchor: "left", yanchor: "top" }
        : { y: view.y.log ? Math.log10(rule.at) : rule.at, xref: "paper", x: 0, xanchor: "left", yanchor: "bottom" }) }));
    return {
      width, height, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: "system-ui, sans-serif", size: 12.5, color: ink },
      margin: { l: 52, r: 14, t: 10, b: 44 }, hovermode: "closest", hoverlabel: { namelength: -1, bgcolor: paper, bordercolor: line, font: { color: ink } },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", uirevision: `${key} ${view.name} ${view.by}`,
      xaxis: { ...axis(view.x, series.flatMap((one) => column(one.x)), width - 100), ...(view.square ? { constrain: "domain" } : {}) },
      yaxis: { ...axis(view.y, series.flatMap((one) => column(one.y)), height - 80), ...(view.square ? { scaleanchor: "x", constrain: "domain" } : {}) }, shapes: rules, annotations: notes,
    };
  }

  class Plot {
    constructor(node) {
      this.node = node;
      this.figure = page.figures.find((figure) => figure.key === node.dataset.figure);
      this.view = this.figure.views[0];
      [this.host, this.legend, this.details] = [".plot", ".legend", "details.data"].map((name) => node.querySelector(name));
      this.tools();
      this.details.addEventListener("toggle", () => this.table());
      this.host.addEventListener("keydown", (event) => this.key(event));
    }

    tools() {
      const selects = [["name", "Show"], ["by", "against"]].map(([part, words]) => {
        const names = [...new Set(this.figure.views.map((view) => view[part]))];
        if (names.length < 2) return null;
        const turn = (event) => this.turn({ [part]: event.target.value });
        return make("label", {}, `${words} `, make("select", { onchange: turn }, ...names.map((name) => make("option", { value: name }, name))));
      }).filter(Boolean);
      const button = (text, words, action) => make("button", { type: "button", "aria-label": `${words}: ${this.figure.title}`, title: words, onclick: action }, text);
      const runs = this.figure.views.some((view) => view.series.some((one) => one.one_run))
        ? [make("label", {}, make("input", { type: "checkbox", class: "runs", onchange: (event) => { chosen.runs = event.target.checked; refresh(); } }), " single runs")] : [];
      this.node.querySelector(".tools").append(...selects, ...runs, make("span", { class: "group" }, button("+", "Zoom in", () => this.zoom(0.7)),
        button("−", "Zoom out", () => this.zoom(1 / 0.7)), button("reset", "Whole range", () => this.reset()),
        button("CSV", "Download data as CSV", () => save(`${this.file()}.csv`, csv(rowsOf(this.view, this.view.series)), "text/csv")),
        button("SVG", "Download picture as SVG", () => plotly().then((Plotly) => Plotly.downloadImage(this.host, { format: "svg", filename: this.file() })))));
    }

    file() {
      return fileName(page.name, this.figure.key, this.view.name, this.view.by);
    }

    turn(part) {
      const wanted = { name: this.view.name, by: this.view.by, ...part };
      this.view = this.figure.views.find((view) => view.name === wanted.name && view.by === wanted.by);
      this.refresh();
    }

    series() {
      return this.view.series.filter(isShown);
    }

    async draw() {
      this.paint(await plotly());
    }

    paint(Plotly) {
      const printing = root.hasAttribute("data-printing");
      this.host.style.height = printing ? `${PRINT.height}px` : "";
      const size = printing ? PRINT : { width: this.host.clientWidth, height: this.host.clientHeight }, series = this.series();
      Plotly.react(this.host, traces(this.view, series), layout(this.view, series, this.figure.key, size), { displayModeBar: false, doubleClick: "reset" });
      this.node.dataset.drawn = this.view.name;
    }

    refresh() {
      const entries = new Map();
      this.series().forEach((one, order) => {
        if (!one.one_run) entries.set(one.legend ?? (one.cell || one.name), mark(one.cell ? places.get(one.cell) : order, this.view.x.title === "α" ? "solid" : undefined));
      });
      this.legend.replaceChildren(...[...entries].map(([name, sign]) => make("li", {}, sign, ` ${name}`)));
      this.node.querySelectorAll("input.runs").forEach((input) => { input.checked = chosen.runs; });
      this.table();
      if (this.node.dataset.drawn) this.draw();
    }

    table() {
      this.details.querySelector(".scroll").replaceChildren(...(this.details.open ? [tableOf(rowsOf(this.view, this.series()))] : []));
    }

    async ranges(change) {
      const Plotly = await plotly();
      if (!this.node.dataset.drawn) await this.draw();
      const told = ["xaxis", "yaxis"].map((axis) => [`${axis}.range`, change(this.host._fullLayout[axis].range, axis)]);
      Plotly.relayout(this.host, Object.fromEntries(told));
    }

    zoom(factor) {
      return this.ranges(([low, high]) => [(low + high) / 2 - (factor * (high - low)) / 2, (low + high) / 2 + (factor * (high - low)) / 2]);
    }

    move(along, share) {
      return this.ranges(([low, high], axis) => (axis === along ? [low + share * (high - low), high + share * (high - low)] : [low, high]));
    }

    async reset() {
      (await plotly()).relayout(this.host, { "xaxis.autorange": true, "yaxis.autorange": true });
    }

    key(event) {
      const actions = {
        "+": () => this.zoom(0.7), "=": () => this.zoom(0.7), "-": () => this.zoom(1 / 0.7), 0: () => this.reset(),
        ArrowLeft: () => this.move("xaxis", -0.15), ArrowRight: () => this.move("xaxis", 0.15),
        ArrowUp: () => this.move("yaxis", 0.15), ArrowDown: () => this.move("yaxis", -0.15),
      };
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
      event.preventDefault();
      actions[event.key]();
    }
  }

  function chooser(node) {
    const [summary, body] = node.children;
    const boxes = (set, names, signs) => names.map((name, i) => make("label", {},
      make("input", { type: "checkbox", value: i, checked: set.has(name), onchange: (event) => { set[event.target.checked ? "add" : "delete"](name); refresh(); } }), " ",
      ...(signs ? [mark(i), " "] : []), String(name)));
    const every = (on) => () => { page.cells.forEach((cell) => chosen.cells[on(cell) ? "add" : "delete"](cell.name)); build(); refresh(); };
    const button = (text, on) => make("button", { type: "button", onclick: every(on) }, text);
    function build() {
      const cells = page.cells.length ? [make("fieldset", {}, make("legend", {}, "Cells"),
        make("p", { class: "tools" }, button("all", () => true), button("none", () => false), button("as at first", (cell) => cell.on)),
        make("div", { class: "choices" }, ...boxes(chosen.cells, page.cells.map((cell) => cell.name), true)))] : [];
      const seeds = page.seeds.length > 1 ? [make("fieldset", {}, make("legend", {}, "Seeds, where single runs are shown"),
        make("div", { class: "choices short" }, ...boxes(chosen.seeds, page.seeds)))] : [];
      body.replaceChildren(...cells, ...seeds);
    }
    build();
    node.hidden = page.cells.length + page.seeds.length < 2;
    return () => { summary.textContent = `Choose what the plots show: ${chosen.cells.size} of ${page.cells.length} cells, ${chosen.seeds.size} of ${page.seeds.length} seeds`; };
  }

  document.querySelectorAll("[data-mark]").forEach((node) => node.append(mark(Number(node.dataset.mark))));
  document.querySelectorAll("[data-sheet]").forEach((node) => node.addEventListener("click",
    () => save(`${fileName(page.name, node.dataset.sheet)}.csv`, page.sheets[node.dataset.sheet], "text/csv")));
  const plots = [...document.querySelectorAll("figure")].map((node) => new Plot(node));
  const panel = document.getElementById("chooser"), tell = panel ? chooser(panel) : () => {};
  function refresh() { tell(); plots.forEach((plot) => plot.refresh()); }
  refresh();

  // What comes into sight is drawn at once; the rest, one by one, when nothing else is to be done: printing needs them all.
  const sight = new IntersectionObserver((seen) => seen.filter((one) => one.isIntersecting).forEach((one) => {
    sight.unobserve(one.target);
    plots.find((plot) => plot.node === one.target).draw();
  }), { rootMargin: "200px" });
  const idle = window.requestIdleCallback ?? ((action) => setTimeout(action, 50));
  async function rest() {
    const next = plots.find((plot) => !plot.node.dataset.drawn);
    if (next) { await next.draw(); idle(rest); }
  }
  requestAnimationFrame(() => setTimeout(() => { plots.forEach((plot) => sight.observe(plot.node)); idle(rest); }));

  let resizing = 0;
  const redraw = () => plots.filter((plot) => plot.node.dataset.drawn).forEach((plot) => plot.draw());
  window.addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(redraw, 150); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  const print = (on) => () => {
    root.toggleAttribute("data-printing", on);
    if (window.Plotly) plots.forEach((plot) => plot.paint(window.Plotly));
  };
  window.addEventListener("beforeprint", print(true));
  window.addEventListener("afterprint", print(false));
})();
