"""`osteonode rules`: what shall run."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from node.cli import rule_files, rule_history, rule_trials
from node.cli.common import AsJson, actor, opened, parse_parameters
from node.cli.output import form, row, show_fields, show_json, show_list
from node.cli.rule_parts import Incomplete, check_rules, parse_roles, parse_time, show_rule
from node.cli.rule_trials import Yes, confirm
from storage.errors import ChangeRefused
from storage.model import PRIOR_DAYS, WAIT_S, Rule

app = typer.Typer(
    name="rules", help="What shall run: rules on DICOM keywords.", no_args_is_help=True
)
app.command("export")(rule_files.export)
app.command("import")(rule_files.import_)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule.")]
_WHERE_HELP = "A clause, `Keyword operator value`; all must hold, for every input. Repeat for more."
_ROLE_HELP = (
    "For a pipeline of several inputs: one that is wanted, and a clause for it alone. Repeat for more. "
    "None named: all inputs are wanted."
)
_WAIT_HELP = "How long a study waits for an input that is missing: 90s, 30m, 12h, 7d, 0."
_WITHOUT_HELP = (
    "An input that a run may go without when the wait is over. Repeat for more. None: the run is held until all "
    "are there."
)
_PREFER_HELP = (
    "Which of several series that fit is taken, the first wish first: a clause, or `most` or `least` of a number. "
    "Repeat for more."
)
_EACH_HELP = "Run on every series that fits the first input, not only on the one preferred."
_REFUSALS_HELP = (
    "Send a small report that says why, in codes, when a study is refused or its run fails."
)
_WINDOW_HELP = "When it may run: `mon-fri 20:00-06:00`, several with commas; `, stat` frees STAT studies of it."
_INCOMPLETE_HELP = (
    "What becomes of a series that lacks slices when the wait is over: hold it, or run on its longest part without a "
    "gap, with a notice in the report."
)
_PRIOR_HELP = "Say in the report what has changed since the patient's study before."
_PRIOR_FROM_HELP = (
    "Ask this destination for that study (C-FIND, C-MOVE or C-GET) where there is no result of it; it is waited for "
    "as long as `--wait` says."
)
_PRIOR_DAYS_HELP = "How many days that study may lie back."
_TO_HELP = "Destination of the results, by name. Repeat for more."
_PARAMETER_HELP = "NAME=VALUE, over the pipeline's default. Repeat for more."
_COLUMNS = ("name", "enabled", "priority", "pipeline", "where", "inputs", "destinations", "version")
_NOBODY = "none"


def _named(given: str | None, old: str) -> str:
    """A name that is given, none for `none`, or what was there."""
    if given is None:
        return old
    return "" if given == _NOBODY else given


@app.command("list")
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List all rules, most urgent first.

    Example: `osteonode rules list --json`
    """
    from storage.index import rules

    with opened(ctx) as index:
        found = sorted(rules.list_rules(index), key=lambda rule: (-rule.priority, rule.name))
    show_list(
        [row(rule) if as_json else show_rule(rule) for rule in found],
        _COLUMNS,
        as_form=form(as_json=as_json),
        empty="There are no rules; `osteonode rules add --help` shows how to make one.",
    )


@app.command()
def show(ctx: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show one rule.

    Example: `osteonode rules show skeleton`
    """
    from storage.index import rules

    with opened(ctx) as index:
        rule = rules.get(index, name)
    if as_json:
        show_json(rule)
    else:
        show_fields(show_rule(rule) | {"where": "\n".join(rule.where)})


@app.command()
def add(
    ctx: typer.Context,
    name: Name,
    pipeline: Annotated[str, typer.Option("--pipeline", help="The pipeline that shall run.")],
    to: Annotated[list[str], typer.Option("--to", metavar="DESTINATION", help=_TO_HELP)],
    where: Annotated[
        list[str] | None, typer.Option("--where", metavar="CLAUSE", help=_WHERE_HELP)
    ] = None,
    priority: Annotated[int, typer.Option(min=0, max=100, help="100 runs first.")] = 50,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", metavar="NAME=VALUE", help=_PARAMETER_HELP)
    ] = None,
    role: Annotated[
        list[str] | None, typer.Option("--role", metavar="INPUT: CLAUSE", help=_ROLE_HELP)
    ] = None,
    wait: Annotated[str | None, typer.Option("--wait", metavar="TIME", help=_WAIT_HELP)] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="INPUT", help=_WITHOUT_HELP)
    ] = None,
    report_refusals: Annotated[
        bool, typer.Option("--report-refusals", help=_REFUSALS_HELP)
    ] = False,
    window: Annotated[str, typer.Option("--window", metavar="TIMES", help=_WINDOW_HELP)] = "",
    incomplete: Annotated[
        Incomplete, typer.Option("--incomplete", help=_INCOMPLETE_HELP)
    ] = Incomplete.HOLD,
    prefer: Annotated[
        list[str] | None, typer.Option("--prefer", metavar="WISH", help=_PREFER_HELP)
    ] = None,
    each: Annotated[bool, typer.Option("--each", help=_EACH_HELP)] = False,
    compare_prior: Annotated[bool, typer.Option("--compare-prior", help=_PRIOR_HELP)] = False,
    prior_days: Annotated[
        int, typer.Option("--prior-days", min=1, max=36500, help=_PRIOR_DAYS_HELP)
    ] = PRIOR_DAYS,
    prior_from: Annotated[
        str, typer.Option("--prior-from", metavar="DESTINATION", help=_PRIOR_FROM_HELP)
    ] = "",
    disabled: Annotated[bool, typer.Option("--disabled", help="Add it switched off.")] = False,
    yes: Yes = False,
) -> None:
    """Add a rule. What it would have done in the last 30 days is shown before you are asked; `--yes` skips both.

    Operators: `=` `!=`, `~` `!~` (regular expression found anywhere, or not), `<` `<=` `>` `>=` (numbers), `in`
    (one of a list: `Modality in CT, PT`), `exists`, `missing`. Keywords are DICOM's (`Modality`, `SeriesDescription`,
    `StationName` ...) or `calling_ae`, `instances`, `frames`, `slices`, `missing_slices`, `duplicate_positions`,
    `orientations`, `frames_of_reference`, `slice_gap_mm`, `slice_gap_irregular_mm`.

    Of several series of a study that fit, one runs: the first by `--prefer`, then by ImageType (ORIGINAL, PRIMARY),
    most slices, thinnest, smallest Series Number. `--each` runs on all of them.

    A pipeline may take several inputs (`osteonode pipelines show NAME`), as SPECT and CT. They are looked for in one
    study, one series for each. A study waits `--wait` (30m when not
    given) for what is missing, then runs if `--without` names it; else it is held. What comes later starts the run
    with all inputs. A series that lacks slices is waited for as long, then held, or run with a notice where
    `--incomplete run` is given. `osteonode rules test` tries rules on what was received, `osteonode rules check` looks
    for faults.

    Examples:

    `osteonode rules add skeleton --pipeline ct_skeleton --to PACS --priority 50 --where 'Modality = CT' --where
    'SeriesDescription ~ (?i)bone|body'`

    `osteonode rules add lesions --pipeline spect_ct_bone_lesion --to PACS --role 'spect: ImageType = RECON TOMO'
    --role 'ct: ConvolutionKernel ~ ^B' --wait 30m --without ct`

    `osteonode rules add muscle --pipeline ct_trunk_muscle --to PACS --where 'Modality = CT'
    --prefer 'ConvolutionKernel ~ (?i)^b[rf]?3' --prefer 'least SliceThickness'`
    """
    from storage.index import rules

    rule = Rule(
        name=name,
        pipeline=pipeline,
        where=tuple(where or ()),
        destinations=tuple(to),
        priority=priority,
        enabled=not disabled,
        parameters=parse_parameters(parameter or ()),
        roles=parse_roles(role or ()),
        wait_s=WAIT_S if wait is None else parse_time(wait),
        without=tuple(without or ()),
        report_refusals=report_refusals,
        window=window,
        incomplete=incomplete.value,
        prefer=tuple(prefer or ()),
        each=each,
        prior="compare" if compare_prior else "",
        prior_days=prior_days,
        prior_from=prior_from,
    )
    with opened(ctx) as index:
        check_rules(ctx, index, [rule])
        if any(one.name == name for one in rules.list_rules(index)):
            raise ChangeRefused(f"There is a rule {name} already; edit it.")
        confirm(ctx, index, rule, yes=yes)
        rules.add(index, rule, actor=actor())
    print(f"Rule {name} is {'off until enabled' if disabled else 'in force'}.")


@app.command()
def edit(
    ctx: typer.Context,
    name: Name,
    pipeline: Annotated[str | None, typer.Option("--pipeline", help="Another pipeline.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="CLAUSE", help=f"{_WHERE_HELP} Replaces all clauses."),
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="DESTINATION", help=f"{_TO_HELP} Replaces all destinations."),
    ] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=100, help="100 runs first.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter", metavar="NAME=VALUE", help=f"{_PARAMETER_HELP} Replaces all parameters."
        ),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="INPUT: CLAUSE",
            help=f"{_ROLE_HELP} Replaces all; `{_NOBODY}` for none.",
        ),
    ] = None,
    wait: Annotated[str | None, typer.Option("--wait", metavar="TIME", help=_WAIT_HELP)] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="INPUT",
            help=f"{_WITHOUT_HELP} Replaces all; `{_NOBODY}` for none.",
        ),
    ] = None,
    report_refusals: Annotated[
        bool | None, typer.Option("--report-refusals/--no-report-refusals", help=_REFUSALS_HELP)
    ] = None,
    window: Annotated[
        str | None,
        typer.Option("--window", metavar="TIMES", help=f"{_WINDOW_HELP} `{_NOBODY}`: at any time."),
    ] = None,
    incomplete: Annotated[
        Incomplete | None, typer.Option("--incomplete", help=_INCOMPLETE_HELP)
    ] = None,
    prefer: Annotated[
        list[str] | None,
        typer.Option(
            "--prefer", metavar="WISH", help=f"{_PREFER_HELP} Replaces all; `{_NOBODY}` for none."
        ),
    ] = None,
    each: Annotated[bool | None, typer.Option("--each/--one", help=_EACH_HELP)] = None,
    yes: Yes = False,
    compare_prior: Annotated[
        bool | None, typer.Option("--compare-prior/--no-compare-prior", help=_PRIOR_HELP)
    ] = None,
    prior_days: Annotated[
        int | None, typer.Option("--prior-days", min=1, max=36500, help=_PRIOR_DAYS_HELP)
    ] = None,
    prior_from: Annotated[
        str | None,
        typer.Option(
            "--prior-from", metavar="DESTINATION", help=f"{_PRIOR_FROM_HELP} `{_NOBODY}` for none."
        ),
    ] = None,
) -> None:
    """Change a rule; what is not given stays. What it would have done is shown before you are asked.

    The change is a new version; studies evaluated before are not touched, but for those that wait for an input.

    Example: `osteonode rules edit skeleton --priority 80 --where 'Modality = CT' --where 'SliceThickness <= 3'`
    """
    from storage.index import rules

    with opened(ctx) as index:
        old = rules.get(index, name)
        new = replace(
            old,
            pipeline=old.pipeline if pipeline is None else pipeline,
            where=tuple(where) if where else old.where,
            destinations=tuple(to) if to else old.destinations,
            priority=old.priority if priority is None else priority,
            parameters=parse_parameters(parameter) if parameter else old.parameters,
            roles=parse_roles(one for one in role if one != _NOBODY) if role else old.roles,
            wait_s=old.wait_s if wait is None else parse_time(wait),
            without=tuple(one for one in without if one != _NOBODY) if without else old.without,
            report_refusals=old.report_refusals if report_refusals is None else report_refusals,
            window=old.window if window is None else window.removeprefix(_NOBODY),
            incomplete=old.incomplete if incomplete is None else incomplete.value,
            prefer=tuple(one for one in prefer if one != _NOBODY) if prefer else old.prefer,
            each=old.each if each is None else each,
            prior=old.prior if compare_prior is None else "compare" if compare_prior else "",
            prior_days=prior_days or old.prior_days,
            prior_from=_named(prior_from, old.prior_from),
        )
        if new == old:
            raise typer.BadParameter(
                "nothing to change; give --pipeline, --where, --to, --priority, --parameter, --role, --wait, "
                "--without, --incomplete, --report-refusals, --prefer, --each or --window."
            )
        check_rules(ctx, index, [new])
        confirm(ctx, index, new, yes=yes)
        changed = rules.edit(index, new, actor=actor())
    print(f"Rule {name} is now version {changed.version}.")


@app.command()
def remove(ctx: typer.Context, name: Name) -> None:
    """Remove a rule; its history stays.

    Example: `osteonode rules remove skeleton`
    """
    from storage.index import rules

    with opened(ctx) as index:
        rules.remove(index, name, actor=actor())
    print(f"Rule {name} is removed.")


@app.command()
def enable(ctx: typer.Context, name: Name) -> None:
    """Switch a rule on, for studies evaluated from now on.

    Example: `osteonode rules enable skeleton`
    """
    from storage.index import rules

    with opened(ctx) as index:
        # What it names may have gone while it was off.
        check_rules(ctx, index, [rules.get(index, name)])
        rules.enable(index, name, actor=actor())
    print(f"Rule {name} is on.")


@app.command()
def disable(ctx: typer.Context, name: Name) -> None:
    """Switch a rule off; what it already started goes on.

    Example: `osteonode rules disable skeleton`
    """
    from storage.index import rules

    with opened(ctx) as index:
        rules.disable(index, name, actor=actor())
    print(f"Rule {name} is off.")


app.command("test")(rule_trials.try_)
app.command("check")(rule_history.check)
app.command("history")(rule_history.history)
app.command("rollback")(rule_history.rollback)
