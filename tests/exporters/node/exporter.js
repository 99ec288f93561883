// Exports two spans with the OpenTelemetry SDK for Node and prints their ids as JSON.
//
//   node exporter.js PROTOCOL ENDPOINT     (grpc, http/protobuf or http/json)
"use strict";

const { SpanKind, SpanStatusCode, context, trace } = require("@opentelemetry/api");
const { CompressionAlgorithm } = require("@opentelemetry/otlp-exporter-base");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { TracerProvider, BatchSpanProcessor } = require("@opentelemetry/sdk-trace");

function exporter(protocol, url) {
  const headers = { authorization: `Bearer ${process.env.TOKEN}` };
  const compression = CompressionAlgorithm.GZIP;
  if (protocol === "grpc") {
    const { Metadata } = require("@grpc/grpc-js");
    const { OTLPTraceExporter } = require("@opentelemetry/exporter-trace-otlp-grpc");
    const metadata = new Metadata();
    metadata.set("authorization", headers.authorization);
    return new OTLPTraceExporter({ url, metadata, compression });
  }
  const name = protocol === "http/json" ? "http" : "proto";
  const { OTLPTraceExporter } = require(`@opentelemetry/exporter-trace-otlp-${name}`);
  return new OTLPTraceExporter({ url, headers, compression });
}

async function main() {
  const [protocol, url] = process.argv.slice(2);
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ "service.name": "shop", owner: "jane.doe@example.com" }),
    spanProcessors: [new BatchSpanProcessor({ exporter: exporter(protocol, url) })],
  });
  const tracer = provider.getTracer("exporter.test", "1.2.3");
  const at = (milliseconds) => [1700000000, 123456789 + milliseconds * 1e6];
  const parent = tracer.startSpan("POST /ask", {
    kind: SpanKind.SERVER, startTime: at(0), attributes: { "http.route": "/ask" },
  });
  const child = tracer.startSpan("chat m", {
    kind: SpanKind.CLIENT, startTime: at(1),
    links: [{ context: parent.spanContext(), attributes: { why: "test" } }],
  }, trace.setSpan(context.active(), parent));
  child.setAttributes({
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "m",
    "gen_ai.usage.input_tokens": 12,
    ratio: 0.5,
    flag: true,
    "gen_ai.response.finish_reasons": ["stop", "length"],
    "gen_ai.input.messages":
      '[{"role":"user","parts":[{"type":"text","content":"I am jane.doe@example.com, hällo"}]}]',
  });
  child.addEvent("note", { n: 7 }, at(2));
  child.setStatus({ code: SpanStatusCode.ERROR, message: "cannot reach jane.doe@example.com" });
  child.end(at(3));
  parent.end(at(4));
  await provider.forceFlush();
  await provider.shutdown();
  const { traceId } = parent.spanContext();
  console.log(JSON.stringify({
    trace_id: traceId, parent: parent.spanContext().spanId, child: child.spanContext().spanId,
  }));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
