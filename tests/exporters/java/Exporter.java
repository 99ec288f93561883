import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.api.trace.Tracer;
import io.opentelemetry.context.Context;
import io.opentelemetry.exporter.otlp.http.trace.OtlpHttpSpanExporter;
import io.opentelemetry.exporter.otlp.trace.OtlpGrpcSpanExporter;
import io.opentelemetry.sdk.resources.Resource;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.export.BatchSpanProcessor;
import io.opentelemetry.sdk.trace.export.SpanExporter;
import java.time.Instant;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** Exports two spans with the OpenTelemetry SDK for Java and prints their ids as JSON: PROTOCOL ENDPOINT. */
public final class Exporter {
  private static SpanExporter exporter(String protocol, String endpoint) {
    String authorization = "Bearer " + System.getenv("TOKEN");
    if (protocol.equals("grpc")) {
      return OtlpGrpcSpanExporter.builder()
          .setEndpoint(endpoint)
          .setCompression("gzip")
          .addHeader("authorization", authorization)
          .build();
    }
    return OtlpHttpSpanExporter.builder()
        .setEndpoint(endpoint)
        .setCompression("gzip")
        .addHeader("authorization", authorization)
        .build();
  }

  public static void main(String[] arguments) {
    SdkTracerProvider provider =
        SdkTracerProvider.builder()
            .setResource(
                Resource.create(
                    Attributes.builder()
                        .put("service.name", "shop")
                        .put("owner", "jane.doe@example.com")
                        .build()))
            .addSpanProcessor(
                BatchSpanProcessor.builder(exporter(arguments[0], arguments[1])).build())
            .build();
    Tracer tracer = provider.tracerBuilder("exporter.test").setInstrumentationVersion("1.2.3").build();
    Instant start = Instant.ofEpochSecond(1700000000L, 123456789L);
    Span parent =
        tracer.spanBuilder("POST /ask").setSpanKind(SpanKind.SERVER).setStartTimestamp(start).startSpan();
    parent.setAttribute("http.route", "/ask");
    Span child =
        tracer
            .spanBuilder("chat m")
            .setSpanKind(SpanKind.CLIENT)
            .setStartTimestamp(start.plusMillis(1))
            .setParent(Context.root().with(parent))
            .addLink(parent.getSpanContext(), Attributes.builder().put("why", "test").build())
            .startSpan();
    child.setAttribute("gen_ai.operation.name", "chat");
    child.setAttribute("gen_ai.request.model", "m");
    child.setAttribute("gen_ai.usage.input_tokens", 12);
    child.setAttribute("ratio", 0.5);
    child.setAttribute("flag", true);
    child.setAttribute(
        AttributeKey.stringArrayKey("gen_ai.response.finish_reasons"), List.of("stop", "length"));
    child.setAttribute(
        "gen_ai.input.messages",
        "[{\"role\":\"user\",\"parts\":[{\"type\":\"text\",\"content\":\"I am jane.doe@example.com, h\u00e4llo\"}]}]");
    child.addEvent("note", Attributes.builder().put("n", 7L).build(), start.plusMillis(2));
    child.setStatus(StatusCode.ERROR, "cannot reach jane.doe@example.com");
    child.end(start.plusMillis(3));
    parent.end(start.plusMillis(4));
    boolean sent = provider.forceFlush().join(30, TimeUnit.SECONDS).isSuccess();
    provider.shutdown().join(10, TimeUnit.SECONDS);
    if (!sent) {
      System.err.println("the export failed");
      System.exit(1);
    }
    System.out.printf(
        "{\"trace_id\":\"%s\",\"parent\":\"%s\",\"child\":\"%s\"}%n",
        parent.getSpanContext().getTraceId(),
        parent.getSpanContext().getSpanId(),
        child.getSpanContext().getSpanId());
    // OkHttp's threads would keep the process for a minute.
    System.exit(0);
  }

  private Exporter() {}
}
