"""A gRPC service without generated code, so that python3-grpcio is all it takes.

    greeter.py serve ADDRESS     answers, and says which server it was
    greeter.py ask ADDRESS N     N calls, one after another, over one connection
    greeter.py count ADDRESS N   one call that is answered N times, twice a second
"""

import collections
import signal
import sys
import time
from concurrent import futures

import grpc


def serve(address):
    def hello(name, context):
        return b"hello %s, this is %s" % (name, address.encode())

    def count(to, context):
        for number in range(1, int(to) + 1):
            yield b"%d from %s" % (number, address.encode())
            time.sleep(0.5)

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler("demo.Greeter", {
            "Hello": grpc.unary_unary_rpc_method_handler(hello),
            "Count": grpc.unary_stream_rpc_method_handler(count),
        }),
        # The health service: a message whose field 1 is 1 says SERVING.
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", {
            "Check": grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01"),
        }),
    ))
    server.add_insecure_port(address)
    server.start()
    # In order: what has begun is answered, and who calls is told to go elsewhere (GOAWAY).
    signal.signal(signal.SIGTERM, lambda *_: server.stop(grace=10))
    server.wait_for_termination()


def ask(channel, count):
    answers = collections.Counter()
    for _ in range(count):
        try:
            answers[channel.unary_unary("/demo.Greeter/Hello")(b"you", timeout=5).decode()] += 1
        except grpc.RpcError as error:
            answers[f"{error.code().name}: {error.details()}"] += 1
    for answer, times in sorted(answers.items()):
        print(f"{times:5} x {answer}")


def main():
    what, address = sys.argv[1:3]
    if what == "serve":
        return serve(address)
    with grpc.insecure_channel(address) as channel:
        if what == "ask":
            return ask(channel, int(sys.argv[3]))
        for answer in channel.unary_stream("/demo.Greeter/Count")(sys.argv[3].encode()):
            print(answer.decode(), flush=True)


main()
