function render({ model, el }) {
  const stage = document.createElement("div"), act = (kind, value) => model.send({ kind, value });
  stage.tabIndex = 0;
  stage.dataset.lmSuppressShortcuts = "true";  // JupyterLab would take the arrow keys
  vprKeys(stage, act);
  el.append(stage);
  const draw = () => vprDraw(stage, model.get("view"), act);
  model.on("change:view", draw);
  draw();
}
export default { render };
