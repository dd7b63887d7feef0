// Follow a stream with the platform's own EventSource and print every event as one line of JSON.
const source = new EventSource(process.argv[2]);
for (const name of ["started", "token", "metrics", "end"]) {
  source.addEventListener(name, (event) => {
    console.log(JSON.stringify({ event: name, id: event.lastEventId, data: JSON.parse(event.data) }));
  });
}
source.addEventListener("open", () => console.log(JSON.stringify({ event: "open" })));
source.addEventListener("error", (event) => {
  if (event.data) {
    console.log(JSON.stringify({ event: "error", id: event.lastEventId, data: JSON.parse(event.data) }));
  } else if (source.readyState === EventSource.CLOSED) {
    console.log(JSON.stringify({ event: "closed" }));
  } else {
    console.log(JSON.stringify({ event: "cut" }));
  }
});
// The platform's reconnection timer does not keep a process alive by itself, as a browser's page does.
setInterval(() => {}, 60_000);
