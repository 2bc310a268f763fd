"use strict";

const DICOM_AT = 128; // bytes of preamble before "DICM"
const FAINT = 0.02; // of a probability; smaller effects are no finding
const byId = (id) => document.getElementById(id);
const EMPTY = byId("waiting").textContent;
let request = null; // aborted when another file is chosen

/** An error whose message is shown on the page. */
class Problem extends Error {}

/** The media type of a file by its first bytes; the service checks the whole file. */
async function mediaType(file) {
  const head = new Uint8Array(await file.slice(0, DICOM_AT + 4).arrayBuffer());
  const begins = (...bytes) => bytes.every((byte, place) => head[place] === byte);
  const isDicom = String.fromCharCode(...head.subarray(DICOM_AT)) === "DICM";
  if (isDicom || (file.size && /\.(dcm|dicom)$/i.test(file.name ?? ""))) return "application/dicom"; // some lack the preamble
  if (begins(0xff, 0xd8, 0xff)) return "image/jpeg";
  if (begins(0x89, 0x50, 0x4e, 0x47)) return "image/png";
  throw new Problem(file.size ? "It is no JPEG, PNG or DICOM file." : "It is empty (0 bytes).");
}

/** A response of the service. */
async function send(path, signal, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Problem("The service can't be reached.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Problem(problem.reason ?? `The service failed (HTTP status ${response.status}).`);
}

const percent = (value, digits = 0) => `${(100 * value).toFixed(digits)}%`;
const inWords = (value) => `a probability of ${value > 0.995 ? "more than 99%" : percent(value)}`;

function clear() {
  for (const id of ["status", "problem", "picture"]) byId(id).hidden = true;
  for (const id of ["bars", "note", "waiting"]) byId(id).replaceChildren();
}

function showStatus(kind, strong, rest = "") {
  const box = byId("status");
  const emphasis = document.createElement("strong");
  emphasis.textContent = strong;
  box.className = `box ${kind}`;
  box.replaceChildren(emphasis, rest);
  box.hidden = false;
}

function showProblem(title, sentence) {
  const emphasis = document.createElement("strong");
  emphasis.textContent = title;
  byId("problem").replaceChildren(emphasis, ` ${sentence}`);
  byId("problem").hidden = false;
}

function bar(name, value) {
  const row = document.createElement("div");
  const [label, track, fill, shown] = ["span", "span", "span", "span"].map((tag) => document.createElement(tag));
  row.className = "bar";
  label.textContent = name;
  track.className = "track";
  fill.className = "fill";
  fill.style.width = percent(value, 2);
  shown.className = "value";
  shown.textContent = percent(value, 1);
  const attributes = { role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": value.toFixed(4) };
  for (const [key, text] of Object.entries(attributes)) track.setAttribute(key, text);
  track.append(fill);
  row.append(label, track, shown);
  return row;
}

function showPrediction(prediction) {
  const probabilities = Object.entries(prediction.probabilities);
  const [label, value] = probabilities.reduce((best, one) => (one[1] > best[1] ? one : best));
  if (prediction.out_of_distribution) {
    const scores = `OOD score ${prediction.ood_score.toFixed(2)}, threshold ${prediction.ood_threshold.toFixed(2)}`;
    showStatus("bad", "This does not look like the X-rays that the model knows", ` (${scores}). The values below are meaningless.`);
  } else if (prediction.abstained) {
    const rest = ` ${label} is the most probable class, with ${inWords(value)}. A person must read this image.`;
    showStatus("warn", "The model abstains: it is too unsure.", rest);
  } else {
    showStatus("", label, `, with ${inWords(value)}.`);
  }
  byId("bars").replaceChildren(...probabilities.map(([name, value]) => bar(name, value)));
  const how = prediction.calibrated ? "calibrated" : "not calibrated";
  byId("note").textContent = `Probabilities are ${how}. Predicted in ${prediction.ms.toFixed(0)} ms by ${prediction.model_version}.`;
}

async function showExplanation(explanation) {
  byId("image").src = `data:image/png;base64,${explanation.image}`;
  byId("heat").src = `data:image/png;base64,${explanation.heat_map}`;
  await Promise.all([byId("image").decode(), byId("heat").decode()]);
  const { explained_class: name, largest_fall: fall, largest_rise: rise } = explanation;
  const weak = Math.max(fall, rise) < FAINT ? " No single place matters much." : "";
  byId("caption").textContent =
    `Red: covering this place lowers the probability of ${name}, by up to ${fall.toFixed(3)}. ` +
    `Blue: it raises it, by up to ${rise.toFixed(3)}.${weak}`;
  byId("waiting").replaceChildren();
  byId("picture").hidden = false;
}

/** Predict and explain the file that `load` returns; cancel an earlier one. */
async function show(load) {
  request?.abort();
  request = new AbortController();
  const { signal } = request;
  clear();
  let title = "This file can't be classified.";
  try {
    showStatus("", "Reading the image.");
    const file = await load(signal);
    const limit = Number(document.body.dataset.bodyBytes);
    if (file.size > limit) throw new Problem(`It has ${file.size.toLocaleString("en")} bytes; the limit is ${limit.toLocaleString("en")}.`);
    const options = { method: "POST", body: file, headers: { "Content-Type": await mediaType(file) } };
    const prediction = await (await send("invocations", signal, options)).json();
    if (signal.aborted) return;
    showPrediction(prediction);
    title = "There is no heat map.";
    byId("waiting").textContent = "Computing the heat map: each place of the image is covered in turn.";
    const explanation = await (await send("explanation", signal, options)).json();
    if (signal.aborted) return;
    await showExplanation(explanation);
  } catch (error) {
    if (signal.aborted) return;
    if (byId("bars").childElementCount === 0) byId("status").hidden = true;
    byId("waiting").textContent = EMPTY;
    showProblem(title, error instanceof Problem ? error.message : "The response of the service can't be read.");
  }
}

byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) show(async () => file);
});
byId("file").addEventListener("click", (event) => {
  event.target.value = ""; // so that the same file can be chosen again
});
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => {
    byId("file").value = "";
    show(async (signal) => (await send(`examples/${button.dataset.example}`, signal)).blob());
  });
}
byId("opacity").addEventListener("input", (event) => {
  byId("heat").style.opacity = event.target.value / 100;
});
byId("heat").style.opacity = byId("opacity").value / 100;
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.remove("over");
  });
}
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file) show(async () => file);
});
