// Reads LogQL queries from standard input, one a line, and prints those that the grammar does not take.
import { readFileSync } from "node:fs";
import { parser } from "@grafana/lezer-logql";

for (const query of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  let wrong = false;
  parser.parse(query).iterate({ enter: (node) => { wrong ||= node.type.isError; } });
  if (wrong) console.log(query);
}
