// The source plays along with the result. Media events do not bubble, so they are caught on their way down.
(() => {
  const along = (event, act) => {
    const result = event.target;
    if (!(result instanceof HTMLVideoElement) || !result.classList.contains("result")) return;
    const source = result.closest(".pair").querySelector("video.source");
    if (source) act(source, result);
  };
  const follow = (source, result) => {
    source.playbackRate = result.playbackRate;
    if (Math.abs(source.currentTime - result.currentTime) > 0.1) source.currentTime = result.currentTime;
  };
  const on = (name, act) => document.addEventListener(name, (event) => along(event, act), true);
  on("play", (source, result) => { follow(source, result); source.play(); });
  on("pause", (source, result) => { source.pause(); follow(source, result); });
  for (const name of ["seeking", "timeupdate", "ratechange"]) on(name, follow);
  // What screen readers are to say aloud.
  new MutationObserver((_, observer) => {
    const said = document.getElementById("said");
    if (said) { said.setAttribute("aria-live", "polite"); observer.disconnect(); }
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
