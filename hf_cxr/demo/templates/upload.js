// Runs in the browser: a file that the server would refuse for its size is not sent.
const refuse = (event) => {
  if (!event.target.closest || !event.target.closest('#cxr-upload')) return;
  const files = (event.dataTransfer || event.target).files || [];
  const large = [...files].some((file) => file.size > props.most);
  element.querySelector('.cxr-notice').hidden = !large;
  if (!large) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  if (event.type === 'change') event.target.value = '';
  else event.target.dispatchEvent(new DragEvent('dragleave', { bubbles: true }));
};
['change', 'drop'].forEach((kind) => document.addEventListener(kind, refuse, true));
