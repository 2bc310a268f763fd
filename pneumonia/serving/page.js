"use strict";

const DICOM_AT = 128; // bytes of preamble before "DICM"
const FAINT = 0.02; // of a probability; below it no place matters much
const part = (id) => document.getElementById(id);
const UNCHOSEN = part("waiting").textContent;
let request = null; // aborted when another file is chosen

/** A sentence for people. */
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

/** An answer of the service. */
async function ask(path, signal, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Problem("The service can't be reached.");
  }
  if (answer.ok) return answer;
  const refusal = await answer.json().catch(() => ({}));
  throw new Problem(refusal.reason ?? `The service failed (HTTP status ${answer.status}).`);
}

const percent = (value, digits = 0) => `${(100 * value).toFixed(digits)}%`;
const inWords = (share) => `a probability of ${share > 0.995 ? "more than 99%" : percent(share)}`;

function clear() {
  for (const id of ["status", "problem", "picture"]) part(id).hidden = true;
  for (const id of ["bars", "note", "waiting"]) part(id).replaceChildren();
}

function showStatus(kind, strong, rest = "") {
  const box = part("status");
  const emphasis = document.createElement("strong");
  emphasis.textContent = strong;
  box.className = `box ${kind}`;
  box.replaceChildren(emphasis, rest);
  box.hidden = false;
}

function showProblem(what, sentence) {
  const emphasis = document.createElement("strong");
  emphasis.textContent = what;
  part("problem").replaceChildren(emphasis, ` ${sentence}`);
  part("problem").hidden = false;
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

function showPrediction(answer) {
  const probabilities = Object.entries(answer.probabilities);
  const [likeliest, share] = probabilities.reduce((best, one) => (one[1] > best[1] ? one : best));
  if (answer.out_of_distribution) {
    const scores = `OOD score ${answer.ood_score.toFixed(2)}, threshold ${answer.ood_threshold.toFixed(2)}`;
    showStatus("bad", "This does not look like the X-rays that the model knows", ` (${scores}). The values below mean nothing.`);
  } else if (answer.abstained) {
    const rest = ` ${likeliest} is the likeliest class, with ${inWords(share)}. A person must read this image.`;
    showStatus("warn", "The model abstains: it is too unsure.", rest);
  } else {
    showStatus("", likeliest, `, with ${inWords(share)}.`);
  }
  part("bars").replaceChildren(...probabilities.map(([name, value]) => bar(name, value)));
  const how = answer.calibrated ? "calibrated" : "not calibrated";
  part("note").textContent = `Probabilities are ${how}. Answered in ${answer.ms.toFixed(0)} ms by ${answer.model_version}.`;
}

async function showExplanation(explanation) {
  part("image").src = `data:image/png;base64,${explanation.image}`;
  part("heat").src = `data:image/png;base64,${explanation.heat_map}`;
  await Promise.all([part("image").decode(), part("heat").decode()]);
  const { explained_class: name, largest_fall: fall, largest_rise: rise } = explanation;
  const weak = Math.max(fall, rise) < FAINT ? " No single place matters much." : "";
  part("caption").textContent =
    `Red: covering this place lowers the probability of ${name}, by up to ${fall.toFixed(3)}. ` +
    `Blue: it raises it, by up to ${rise.toFixed(3)}.${weak}`;
  part("waiting").replaceChildren();
  part("picture").hidden = false;
}

/** Classify and explain what `load` gives; an earlier image that is still being answered is given up. */
async function show(load) {
  request?.abort();
  request = new AbortController();
  const { signal } = request;
  clear();
  let failed = "This file can't be answered.";
  try {
    showStatus("", "Reading the image.");
    const file = await load(signal);
    const most = Number(document.body.dataset.bodyBytes);
    if (file.size > most) throw new Problem(`It has ${file.size.toLocaleString("en")} bytes, and at most ${most.toLocaleString("en")} are read.`);
    const sent = { method: "POST", body: file, headers: { "Content-Type": await mediaType(file) } };
    const answer = await (await ask("invocations", signal, sent)).json();
    if (signal.aborted) return;
    showPrediction(answer);
    failed = "There is no heat map.";
    part("waiting").textContent = "Covering the image place by place, to see on which ones the prediction depends.";
    const explanation = await (await ask("explanation", signal, sent)).json();
    if (signal.aborted) return;
    await showExplanation(explanation);
  } catch (error) {
    if (signal.aborted) return;
    if (part("bars").childElementCount === 0) part("status").hidden = true;
    part("waiting").textContent = UNCHOSEN;
    showProblem(failed, error instanceof Problem ? error.message : "The answer of the service can't be read.");
  }
}

part("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) show(async () => file);
});
part("file").addEventListener("click", (event) => {
  event.target.value = ""; // so that the same file can be chosen again
});
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => {
    part("file").value = "";
    show(async (signal) => (await ask(`examples/${button.dataset.example}`, signal)).blob());
  });
}
part("opacity").addEventListener("input", (event) => {
  part("heat").style.opacity = event.target.value / 100;
});
part("heat").style.opacity = part("opacity").value / 100;
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    part("drop").classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    part("drop").classList.remove("over");
  });
}
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file) show(async () => file);
});
