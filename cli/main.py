"""The `espalier` command. Each subcommand imports its room only when it runs, so `serve` never loads torch."""

from __future__ import annotations

import typer

from cli import (
    adapters,
    backbone,
    config,
    data,
    demo,
    domain,
    evaluate,
    features,
    load_catalogue,
    publish,
    release,
    score,
    serve,
    store,
    token,
    train,
)

app = typer.Typer(
    name="espalier",
    help="One frozen CTR backbone, one small adapter per domain: train, publish, serve, swap.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="publish")(publish.publish)
app.add_typer(adapters.app, name="adapters")
app.add_typer(domain.app, name="domain")
app.add_typer(release.app, name="release")
app.add_typer(backbone.app, name="backbone")
app.add_typer(store.app, name="store")
app.add_typer(features.app, name="features")
app.command(name="serve")(serve.serve)
app.add_typer(config.app, name="config")
app.command(name="score")(score.score)
app.add_typer(token.app, name="token")
app.command(name="demo")(demo.demo)
app.command(name="load-catalogue")(load_catalogue.load_catalogue)

if __name__ == "__main__":
    app()
