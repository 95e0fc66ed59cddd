"""The configuration: composed, checked before anything is loaded, and built: the one door to Hydra."""

from medassay.config.checks import TRUSTED_ENVIRONMENT_VARIABLE as TRUSTED_ENVIRONMENT_VARIABLE
from medassay.config.checks import check as check
from medassay.config.checks import check_arguments as check_arguments
from medassay.config.checks import conforms as conforms
from medassay.config.checks import describe as describe
from medassay.config.checks import list_trusted_targets as list_trusted_targets
from medassay.config.checks import locate as locate
from medassay.config.checks import takes_argument as takes_argument
from medassay.config.command_line import compose as compose
from medassay.config.command_line import find_run_directory as find_run_directory
from medassay.config.composition import compose_option as compose_option
from medassay.config.composition import compose_with_hydra as compose_with_hydra
from medassay.config.composition import drop_hydra as drop_hydra
from medassay.config.composition import expand_paths as expand_paths
from medassay.config.composition import find_conf_directory as find_conf_directory
from medassay.config.composition import leave_unresolved as leave_unresolved
from medassay.config.composition import make_run_id as make_run_id
from medassay.config.composition import make_slug as make_slug
from medassay.config.composition import register_resolvers as register_resolvers
from medassay.config.composition import resolve as resolve
from medassay.config.construction import build as build
from medassay.config.moved import restore_config as restore_config
from medassay.config.moved import update_config as update_config
