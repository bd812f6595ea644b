"""The checks of backdoors: is one gone, has one woken, does a weaker trigger hit more often?"""
