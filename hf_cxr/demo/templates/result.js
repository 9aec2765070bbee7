// Runs in the browser. The server sends a result as a whole and forgets it; which heatmap lies over the film, and how
// strongly, is settled here.
const view = element.querySelector('.cxr-view');
const show = () => {
  const chosen = view.querySelector('input[name="cxr-finding"]:checked');
  if (!chosen) return;
  const strength = view.querySelector('.cxr-opacity input').value;
  view.querySelectorAll('.layer').forEach((layer) => { layer.hidden = layer.dataset.at !== chosen.value; });
  view.querySelector('.layers').style.opacity = strength / 100;
  view.querySelector('.cxr-opacity output').textContent = strength + ' %';
  view.querySelector('.shown').textContent = chosen.dataset.words;
};
view.addEventListener('input', show);
watch('value', () => {
  if (!props.value) return;  // the server has forgotten; the visitor has not
  view.innerHTML = props.value;
  show();
});
