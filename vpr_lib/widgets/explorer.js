// One drawing for two hosts, the notebook's widget and the static page. `view` is what Explorer.view returns; `act(kind, value)`
// hears 'step' (-1 or 1) and 'point' ([metres east, metres north] of the map's corner).
function vprDraw(root, view, act) {
  const make = (tag, name, ...children) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.append(...children);
    return element;
  };
  const picture = (source, name, alt) => Object.assign(new Image(), { src: source, className: name, alt });
  const tile = t => {
    const pic = make("div", "pic", picture(t.src, "", t.alt));
    if (t.over) pic.append(picture(t.over, "over", ""));
    return make("figure", t.kind, pic, make("figcaption", "", t.caption));
  };
  const row = (r, name) => make("section", name, make("h2", "", r.title), make("div", "tiles", ...r.tiles.map(tile)));
  const rows = make("div", "rows", ...view.rows.map(r => row(r, "")));
  if (view.near) rows.append(row(view.near, "near"));
  for (const note of view.notes) rows.append(make("p", "note", note));
  const side = make("div", "side");
  if (view.map) side.append(vprMap(view.map, act), make("p", "", view.map.words));
  root.classList.add("vpr-stage");
  root.replaceChildren(rows, side);
}

function vprMap(map, act) {
  const svgOf = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const scale = 340 / Math.max(map.size[0], map.size[1], 1), x = p => 10 + p[0] * scale, y = p => 350 - p[1] * scale;
  const svg = svgOf("svg", { viewBox: "0 0 360 360", role: "img", "aria-label": map.words });
  const dot = (p, name, r) => svg.append(svgOf("circle", { cx: x(p), cy: y(p), r, class: name }));
  const ground = map.dots.map(p => `M${x(p).toFixed(1)} ${y(p).toFixed(1)}h0`).join("");  // one element: thousands would be slow
  svg.append(svgOf("path", { d: ground, class: "d" }));
  for (const m of map.matches)
    m.correct === false ? svg.append(svgOf("rect", { x: x(m.at) - 4, y: y(m.at) - 4, width: 8, height: 8, class: "wrong" }))
      : dot(m.at, m.correct ? "right" : "p", 6);
  if (map.query) svg.append(svgOf("path", { d: `M${x(map.query)} ${y(map.query) - 8}l8 8l-8 8l-8-8z`, class: "q" }));
  if (map.point) svg.append(svgOf("path", { d: `M${x(map.point) - 7} ${y(map.point)}h14m-7-7v14`, class: "p" }));
  const bar = 10 ** Math.floor(Math.log10(Math.max(map.size[0], map.size[1], 10) / 2));
  const label = svgOf("text", { x: 10, y: 15 });
  label.textContent = bar < 1000 ? `${bar} m` : `${bar / 1000} km`;
  svg.append(svgOf("path", { d: `M10 20v4h${bar * scale}v-4`, class: "scale" }), label);
  svg.addEventListener("click", event => {
    const box = svg.getBoundingClientRect(), unit = 360 / box.width;
    act("point", [((event.clientX - box.left) * unit - 10) / scale, (350 - (event.clientY - box.top) * unit) / scale]);
  });
  return svg;
}

function vprKeys(target, act) {
  target.addEventListener("keydown", event => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
    event.preventDefault();
    event.stopPropagation();
    act("step", by);
  });
}
