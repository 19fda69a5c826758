startTheme();
themeListeners.push(() => plots.forEach(paint));
unpack("data").then((text) => {
  const data = JSON.parse(text);
  showHead(data);
  showCurves(data);
  showBehaviourAccuracy(data);
  showEvaluations(data);
  showPairs(data);
  showGroups(data);
  document.querySelectorAll("nav a").forEach((link) => { link.hidden = byId(link.hash.slice(1)).hidden; });
  root.dataset.ready = "1";
}).catch((error) => {
  byId("subtitle").textContent = `The report could not be displayed (${error.message}); it needs a browser from 2023 or later.`;
  throw error;
});
